"""Textbook GPTQ (Frantar et al. 2022, algorithm 1) in double precision, written from the paper: invert the damped H,
take the upper Cholesky factor of the inverse, quantize column by column and push each column's error onto the rest.
Groups are static, their scales and zero points the quantizer's own (docs/numerics.md). Writes gptq/case.safetensors.

    python gptq_oracle.py
"""
import pathlib

import numpy as np
from safetensors.numpy import save_file

GOLDEN = pathlib.Path(__file__).resolve().parent.parent
ROWS, K, N, GROUP, DAMP = 160, 96, 24, 32, 0.01


def grid(w, bits):
    """Scale (f16) and zero point of every group of every row, from minimum and maximum."""
    top = 2 ** bits - 1
    g = w.reshape(N, K // GROUP, GROUP)
    lo, hi = g.min(-1), g.max(-1)
    s = (np.maximum(hi - lo, np.float32(1e-5)) / np.float32(top)).astype(np.float16)
    z = np.clip(-np.rint(lo / s.astype(np.float32)), 0, top)
    return s, z.astype(np.uint8)


def gptq(w, h, s, z, bits, by_size):
    top = 2 ** bits - 1
    h = h + DAMP * np.mean(np.diag(h)) * np.eye(K)
    order = np.argsort(-np.diag(h), kind="stable") if by_size else np.arange(K)
    u = np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)])).T  # inverse = u^T u, u upper
    w = w.astype(np.float64)[:, order]
    codes = np.zeros((N, K), np.uint8)
    for i, column in enumerate(order):
        scale, zero = s[:, column // GROUP].astype(np.float64), z[:, column // GROUP].astype(np.float64)
        q = np.clip(np.rint(w[:, i] / scale) + zero, 0, top)
        codes[:, column] = q
        e = (w[:, i] - (q - zero) * scale) / u[i, i]
        w[:, i:] -= e[:, None] * u[i, i:][None, :]
    return codes


def main():
    rng = np.random.default_rng(5)
    mix = rng.normal(size=(K, K)) / np.sqrt(K)
    x = (rng.normal(size=(ROWS, K)) @ mix + 0.3 * rng.normal(size=(ROWS, K))).astype(np.float32)
    x[:, 7] *= 9  # an outlier channel
    x[:, 40] = 0  # and a dead one
    w = rng.standard_t(6, size=(N, K)).astype(np.float32)
    h = x.astype(np.float64).T @ x.astype(np.float64) / ROWS
    out = {"x": x, "w": w}
    for bits in (2, 3, 4):
        s, z = grid(w, bits)
        out[f"b{bits}.scales"], out[f"b{bits}.zeros"] = s, z
        for by_size in (False, True):
            out[f"b{bits}.{'diag' if by_size else 'none'}.codes"] = gptq(w, h, s, z, bits, by_size)
    (GOLDEN / "gptq").mkdir(exist_ok=True)
    save_file(out, GOLDEN / "gptq" / "case.safetensors")


if __name__ == "__main__":
    main()
