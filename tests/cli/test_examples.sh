#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# examples/ keeps up with the tree: the container file copies every folder that the build reads and installs the
# packages that scripts/common.sh names; nginx and systemd read their files, where they are installed.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
failed=0
complain() {
  echo "$*" >&2
  failed=1
}

container=examples/Containerfile
for dir in */; do
  dir=${dir%/}
  case $dir in tests | bench | build*) continue ;; esac
  grep -qE "(^|[^A-Za-z_/])$dir/" CMakeLists.txt || continue
  grep -qE "^COPY $dir $dir\$" $container || complain "$container: the build reads $dir, which is not copied"
done
# shellcheck disable=SC1091
. scripts/common.sh
for package in "${build_packages[@]}"; do
  grep -qE "(^| )${package//./\\.}( |\$)" $container || complain "$container: the build needs $package"
done

runtime=$(sed '1,/^FROM debian:12-slim/d' $container)
case $runtime in
  *libcurl4*" ca-certificates "*) ;;
  *) complain "$container: https pictures need ca-certificates beside libcurl4, which only recommends them" ;;
esac
# nobody finds the proxy on a replica's port, or on the net without TLS
port=$(sed -n 's/^ *listen 127\.0\.0\.1:\([0-9]*\);/\1/p' examples/nginx.conf)
case $port in
  '') complain "examples/nginx.conf: listens beyond loopback" ;;
  *) ! grep -qE "(ballast@|server 127\.0\.0\.1:)$port\b" examples/* || complain "examples/nginx.conf: $port is a replica's" ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if command -v nginx >/dev/null; then
  sed "s/listen 127.0.0.1:$port/listen 127.0.0.1:18080/" examples/nginx.conf >"$work/site.conf"
  {
    printf 'pid pid;\nerror_log stderr crit;\nevents {}\nhttp {\naccess_log off;\n'
    printf '%s_temp_path temp;\n' client_body proxy fastcgi uwsgi scgi
    printf 'include %s/site.conf;\n}\n' "$work"
  } >"$work/nginx.conf"
  nginx -t -q -p "$work" -c "$work/nginx.conf" || complain "nginx refuses examples/nginx.conf"
else
  echo "skipped: no nginx here"
fi
if command -v systemd-analyze >/dev/null; then
  sed 's#/usr/local/bin/ballast serve#/bin/true#' examples/ballast@.service >"$work/ballast@.service"
  out=$(systemd-analyze verify "$work/ballast@.service" 2>&1) || complain "systemd refuses examples/ballast@.service: $out"
  case $out in *Unknown*) complain "systemd-analyze: $out" ;; esac
else
  echo "skipped: no systemd-analyze here"
fi
exit $failed
