# SPDX-License-Identifier: MIT
# Sourced by demo.sh and test.sh: installs what is missing from Debian's packages and builds.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jobs=${JOBS:-$(nproc)}

build_packages=(gcc libc6-dev cmake ninja-build pkg-config libjansson-dev libjpeg62-turbo-dev libpng-dev
  libwebp-dev libpcre2-dev libutf8proc-dev libssl-dev libedit-dev libopenblas-pthread-dev
  liblapacke-dev libmicrohttpd-dev libcurl4-openssl-dev)
test_packages=(g++ clang libclang-rt-14-dev clang-format libcmocka-dev libsimde-dev binutils)
cross_packages=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)

say() { printf '\n== %s\n' "$*"; }

# install PACKAGE...: only those that are missing, as root or through sudo
install() {
  local missing=() p as_root=()
  for p in "$@"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || {
      echo "Please install these packages first: ${missing[*]}" >&2
      exit 1
    }
    as_root=(sudo)
  fi
  say "installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" >/dev/null
}

# build PRESET [cmake arguments]: configure and compile, quiet unless something fails; with $targets those alone
build() {
  local preset=$1 log
  shift
  log=$(mktemp)
  (cd "$root" && cmake --preset "$preset" "$@" && cmake --build "$(preset_dir "$preset")" -j "$jobs" ${targets:+--target $targets}) >"$log" 2>&1 || {
    tail -n 60 "$log" >&2
    rm -f "$log"
    echo "build of preset $preset failed" >&2
    return 1
  }
  rm -f "$log"
}

preset_dir() { if [ "$1" = release ]; then echo build; else echo "build-$1"; fi; }
