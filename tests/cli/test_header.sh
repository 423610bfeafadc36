#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The public headers stand alone as C99 and as C++, and a C program of theirs links and runs.
source "${BALLAST_SOURCE_DIR:?}/tests/cli/status.sh"
include=$BALLAST_SOURCE_DIR/include
cc=${CC:-cc} cxx=${CXX:-c++}
cat >use.c <<'END'
HEADERS
static bool piece(void *ctx, const char *text, size_t n)
{
    (void)text;
    *(size_t *)ctx += n;
    return true;
}
int main(void)
{
    bal_context *model = NULL;
    bal_error err;
    bal_ask_opts opts;
    memset(&opts, 0, sizeof opts);
    opts.size = (uint32_t)sizeof opts;
    opts.text = piece;
    if (bal_open(&model, "nowhere", NULL, &err) != BAL_E_IO) return 1;
    printf("%s: %s; %s\n", bal_version(), bal_status_text(err.status), err.text);
    return 0;
}
END
all=$(cd "$include" && for h in *.h; do printf '#include "%s"\\n' "$h"; done)
sed -i "s|HEADERS|$all#include <stdio.h>\n#include <string.h>|" use.c
cp use.c use.cpp
flags="-I$include -Wall -Wextra -Wpedantic -Werror"
$cc -std=c99 $flags -c use.c -o use.o
if command -v $cxx >/dev/null; then
    $cxx -std=c++11 $flags -c use.cpp -o use_cpp.o
else
    echo "skipped: no C++ compiler ($cxx)"
fi
for h in "$include"/*.h; do
    printf '#include "%s"\nint unused;\n' "${h##*/}" >alone.c
    $cc -std=c99 $flags -c alone.c -o alone.o
done
