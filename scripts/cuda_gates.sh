#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What can be known of the GPU kernels without a GPU, from their machine code: every kernel compiles for every
# architecture, keeps within its registers, spills nothing, and the linear kernels consist of the
# instructions they were planned with. Prints a table of kernels and fails at the first broken limit.
#   usage: cuda_gates.sh [ARCH...]      (default: 80 86 89 90a, and PTX for compute_80)
# Needs nvcc: in $NVCC, on the PATH or in /usr/local/cuda. Without one it says so and succeeds.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
nvcc=${NVCC:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
[ -x "$nvcc" ] || { echo "skipped: no nvcc"; exit 0; }
ptx=
[ $# -gt 0 ] || { set -- 80 86 89 90a; ptx=1; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

compile() { # ARCH FILE
  local base
  base=$out/$(basename "$2" .cu).$1
  "$nvcc" -std=c++17 -I "$root/src" -I "$root/include" -gencode "arch=compute_$1,code=sm_$1" -cubin \
    -Xptxas -v -o "$base.cubin" "$2" >"$base.log" 2>&1 || { cat "$base.log" >&2; return 255; }
}
export -f compile
export nvcc root out
for arch in "$@"; do printf "$arch %s\n" "$root"/src/cuda/*.cu; done |
  xargs -P "${JOBS:-$(nproc)}" -L 1 bash -c 'compile "$@"' _
if [ -n "$ptx" ]; then
  for f in "$root"/src/cuda/*.cu; do
    "$nvcc" -std=c++17 -I "$root/src" -I "$root/include" -arch compute_80 -ptx -o "$out/x.ptx" "$f"
  done
fi

# kernel arch registers spills, from what ptxas says
for log in "$out"/*.log; do
  awk '/Compiling entry function/ { split($0, q, "\047"); kernel = q[2]; arch = q[4] }
       /spill stores/ { split($0, w, ","); sub(/^ */, "", w[2]); spills = w[2] + 0 }
       /Used .* registers/ { match($0, /Used [0-9]+/); regs = substr($0, RSTART + 5, RLENGTH - 5)
                             print kernel, arch, regs, spills }' "$log"
done | sort >"$out/usage"

# kernel arch part opcode n: instructions are 16 bytes, the low 9 bits of the first word tell the operation.
# The part "loop" of a linear kernel is what runs once per unit of weights: from the wait for a copy (DEPBAR)
# in front of the tensor cores' instructions (HMMA 60, IMMA 55) to the branch behind them.
for cubin in "$out"/*.cubin; do
  arch=sm_$(basename "$cubin" .cubin | sed 's/.*\.//')
  readelf -SW "$cubin" 2>/dev/null |
    sed -n 's/^ *\[ *[0-9]*\] \.text\.\([^ ]*\) *PROGBITS *[0-9a-f]* \([0-9a-f]*\) \([0-9a-f]*\) .*/\1 \2 \3/p' |
    while read -r kernel offset size; do
      od -An -v -t x8 -w16 -j "$((16#$offset))" -N "$((16#$size))" "$cubin" |
        awk -v kernel="$kernel" -v arch="$arch" '
          function digit(i) { return index("0123456789abcdef", substr($1, i, 1)) - 1 }
          {
              op[NR] = digit(14) % 2 * 256 + digit(15) * 16 + digit(16)
              if (op[NR] == 282 && !first) wait = NR
              if (op[NR] == 60 || op[NR] == 55) { if (!first) first = NR; last = NR }
          }
          END {
              if (first) for (end = last; end < NR && op[end] != 327; end++);
              for (i = 1; i <= NR; i++) { n["all", op[i]]++; if (first && i >= wait && i <= end) n["loop", op[i]]++ }
              for (key in n) { split(key, k, SUBSEP); print kernel, arch, k[1], k[2], n[key] }
          }'
    done
done >"$out/opcodes"

awk -v opcodes="$out/opcodes" '
  function count(part, list,   i, ops, k, sum) {
      k = split(list, ops, " ")
      for (i = 1; i <= k; i++) sum += n[$1, $2, part, ops[i]]
      return sum + 0
  }
  function refuse(why) { printf "%s for %s: %s\n", $1, $2, why; bad = 1 }
  BEGIN {
      while ((getline line < opcodes) > 0) {
          split(line, f, " ")
          n[f[1], f[2], f[3], f[4]] = f[5]
          total[f[1], f[2], f[3]] += f[5]
      }
      printf "%-42s %-7s %4s %6s %6s | %4s %6s %3s %3s %4s %5s %5s %10s\n", "kernel", "arch", "regs", "spills", "total",
          "MMA", "LDGSTS", "LDG", "LDS", "LOP3", "shift", "total", "per weight"
  }
  {
      mma = count("loop", "60 55"); lop3 = count("loop", "18"); shift = count("loop", "25"); alu = lop3 + shift + count("loop", "22")
      name = $1
      sub(/^_Z[0-9]*/, "", name); sub(/(EEv)?[0-9]+bal_[a-z_]*args$/, "", name)
      gsub(/ILi|ELi/, " ", name)
      sub(/ELb0/, "", name); sub(/ELb1/, " bytes", name); sub(/E*v?$/, "", name)
      # widths (of tables 32 more) and forms are the template arguments: ...ILi<bits>ELi<nt>ELi<groups per unit>ELb<8-bit activations>E,
      # without nt for many rows and for the one that blocks stage themselves
      split($1, a, /ILi|ELi|ELb|EEv/)
      many = $1 ~ /_many/; own = $1 ~ /_own/; table = a[2] > 32; bits = table ? a[2] - 32 : a[2] + 0; subs = (many || own ? a[3] : a[4]) + 0
      nt = many ? (subs == 1 ? 4 : 2) : own ? 1 : a[3] + 0; bytes = $1 ~ /ELb1E/
      cols = bits == 16 ? 32 : bits == 8 ? 64 : 128 # of a unit, and weights of a lane in it
      linear = $1 ~ /bal_k_linear/
      printf "%-42s %-7s %4d %6d %6d | %4d %6d %3d %3d %4d %5d %5d %10s\n", name, $2, $3, $4, total[$1, $2, "all"], mma,
          count("loop", "430 174"), count("loop", "385 129"), count("loop", "388 132"), lop3, shift, total[$1, $2, "loop"],
          linear ? sprintf("%.2f", total[$1, $2, "loop"] / cols) : ""
      kernels++
      if ($4 > 0) refuse($4 " bytes spilled")
      if (!linear) next
      planned = cols / (bytes ? 32 : 16) * 2 * nt # of 32 bytes or 16 floats each
      if (mma != planned) refuse(mma " MMA, planned " planned)
      if (!bytes && count("loop", "69 262 260")) refuse("integers become floats in the loop")
      limit = many ? 255 : nt == 2 && subs > 1 ? 184 : 128 # two blocks of 256 threads a processor, or one
      if ($3 > limit) refuse($3 " registers, limit " limit)
      # an H100 can issue 4 instructions while it reads 3 bits, 2 of them on the integer pipe, and so in
      # proportion for other widths; tables need most of that, other codes have room
      if (nt == 1 && subs == 1 && bits < 16) {
          few = table ? bits * 0.66 + 0.05 : bits == 8 ? 1.25 : 1.05
          if (alu / cols > few) refuse(alu / cols " integer operations per weight, limit " few)
          each = total[$1, $2, "loop"] / cols; most = table ? bits * 1.33 : bits == 8 ? 3.7 : bits == 6 ? 2.5 : 2.3
          if (bytes) most = bits == 4 ? 1.5 : 2.5
          if (each > most) refuse(each " instructions per weight, limit " most)
      }
  }
  END {
      if (!kernels) { print "no kernels found"; exit 1 }
      if (bad) exit 1
      print kernels " kernels within their limits"
  }' "$out/usage"
