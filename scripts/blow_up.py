#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A copy of a LLaVA-OneVision checkpoint in bf16 or f32 that computes the same, with outlier channels: in every decoder
block the weights of some inputs of the linears are FACTOR times larger and these inputs FACTOR times smaller. FACTOR is
a power of two, also 1/64, so no digit is lost.
  blow_up.py MODEL_DIR OUT_DIR FACTOR PERCENT [SEED]
Inputs change in the norms in front of q, k, v and of gate and up, and in the rows of up in front of down; PERCENT of
the channels of each are drawn, at least one."""
import json
import math
import random
import re
import shutil
import struct
import sys
from pathlib import Path


def scaled(raw, dtype, power):
    """One value times 2^power, on its exponent."""
    size, mantissa, least = {"BF16": (2, 7, 1), "F32": (4, 23, 1)}[dtype]
    bits = int.from_bytes(raw, "little")
    exponent = bits >> mantissa & 0xFF
    if exponent == 0:
        return bytes(size) if bits & (1 << mantissa) - 1 == 0 else raw
    if not least <= exponent + power <= 254:
        sys.exit(f"a value leaves the range of {dtype}")
    return (bits + (power << mantissa)).to_bytes(size, "little")


class Shard:
    def __init__(self, path):
        data = path.read_bytes()
        n = struct.unpack("<Q", data[:8])[0]
        self.path, self.header, self.data = path, json.loads(data[8 : 8 + n]), bytearray(data)
        self.base = 8 + n

    def scale(self, name, power, rows=None, columns=None):
        """Values of these rows, or of these columns in all rows; of a vector, these columns."""
        t = self.header[name]
        size = {"BF16": 2, "F32": 4}[t["dtype"]]
        n, k = (1, *t["shape"]) if len(t["shape"]) == 1 else t["shape"]
        for r in rows if rows is not None else range(n):
            for c in columns if columns is not None else range(k):
                at = self.base + t["data_offsets"][0] + (r * k + c) * size
                self.data[at : at + size] = scaled(self.data[at : at + size], t["dtype"], power)

    def columns(self, name):
        return self.header[name]["shape"][-1]


def main():
    if len(sys.argv) not in (5, 6):
        sys.exit(__doc__)
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    power, percent = -round(math.log2(float(sys.argv[3]))), float(sys.argv[4])
    draw = random.Random(int(sys.argv[5]) if len(sys.argv) == 6 else 0)
    if 2.0**-power != float(sys.argv[3]):
        sys.exit("FACTOR is not a power of two")
    shutil.copytree(source, out, dirs_exist_ok=True)
    shards = [Shard(p) for p in sorted(out.glob("*.safetensors"))]
    where = {name: s for s in shards for name in s.header}

    def channels(linear):
        k = where[linear].columns(linear)
        return sorted(draw.sample(range(k), max(1, round(k * percent / 100))))

    def scale(name, *args, **kwargs):
        if name in where:
            where[name].scale(name, *args, **kwargs)

    for norm in sorted(n for n in where if re.search(r"layers\.\d+\.input_layernorm\.weight$", n)):
        block = norm[: -len("input_layernorm.weight")]
        hit = channels(block + "self_attn.q_proj.weight")
        scale(norm, power, columns=hit)
        for p in "qkv":
            scale(f"{block}self_attn.{p}_proj.weight", -power, columns=hit)
        hit = channels(block + "mlp.gate_proj.weight")
        scale(block + "post_attention_layernorm.weight", power, columns=hit)
        for p in ("gate", "up"):
            scale(f"{block}mlp.{p}_proj.weight", -power, columns=hit)
        hit = channels(block + "mlp.down_proj.weight")
        scale(block + "mlp.up_proj.weight", power, rows=hit)
        scale(block + "mlp.down_proj.weight", -power, columns=hit)
    for s in shards:
        s.path.write_bytes(s.data)


if __name__ == "__main__":
    main()
