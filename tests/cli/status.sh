# SPDX-License-Identifier: MIT
# Sourced by the tests of the command: its path, a scratch folder to stand in, and a check of exit
# status and message.
set -euo pipefail
ballast=${BALLAST_BINARY_DIR:?}/ballast
golden=${BALLAST_SOURCE_DIR:?}/tests/golden
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
export BALLAST_SHAPES= # what this user's cache says of the machine is no matter of a test

# status WANTED PATTERN COMMAND...: exit status, and a sentence in what was printed
status() {
    local wanted=$1 pattern=$2 got=0
    shift 2
    "$@" >out.txt 2>err.txt || got=$?
    if [ "$got" != "$wanted" ] || ! grep -aq -- "$pattern" out.txt err.txt; then
        echo "$*: status $got, wanted $wanted and '$pattern' in:"
        cat out.txt err.txt
        exit 1
    fi
}

# refused WANTED PATTERN COMMAND...: the same, with the sentence on stderr and nothing on stdout
refused() {
    status "$@"
    shift 2
    [ -s err.txt ] && [ ! -s out.txt ] || { echo "$*: wrote to stdout"; cat out.txt; exit 1; }
}

# same A B WHAT: two files with the same bytes
same() {
    cmp "$1" "$2" || { echo "$3 differ"; exit 1; }
}

# differ A B WHAT: two files with other bytes
differ() {
    ! cmp -s "$1" "$2" || { echo "$3 are the same"; exit 1; }
}

# holds COMMAND...: a condition. (set -e looks past the first half of "a && b", and past "! a".)
holds() {
    "$@" || { echo "does not hold: $*"; exit 1; }
}
lacks() {
    ! "$@" || { echo "should not hold: $*"; exit 1; }
}
