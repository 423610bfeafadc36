"""(C) An independent implementation of MBQ's channel-scale search, written from the method's description alone.

It walks the decoder blocks of the tiny models over the three calibration samples and writes, per configuration,
mbq_NAME.json (ratios, channel statistics, 20 losses per group, chosen exponent, scales) and mbq_NAME.safetensors
(codes, scales and zeros of the folded weights where they are kept, logits of the fake-quantized model).
The conventions are in ../README.md. Run make_models.py and make_calib.py first.
"""
import json
import statistics
import sys

import numpy as np
import torch
from safetensors.torch import load_file

import common as c
from common import ANSWER, GOLDEN, VISION

CANDIDATES = 20
TINY_HALF = 2.0 ** -24  # the smallest f16 above zero

BASE = dict(bits=3, group=128, loss="mae", arith="f32", reweight=True, floor=True, statistic="plain",
            average="samples", distort=False, ratio=None, codes=False)
ACTS = dict(group=0, grid="sym", act="a8")  # weight-activation: one symmetric range per output, bytes per token


def configs():
    """Name -> configuration. Codes are kept only where they test something of their own."""
    for bits in (3, 4, 8):
        for loss in ("mae", "mse"):
            yield f"w{bits}_{loss}", dict(bits=bits, loss=loss, codes={"3mae": True, "4mse": "mha", "8mae": "tiled"}.get(f"{bits}{loss}"))
    yield "w3_mae_distort", dict(distort=True, codes="mha")
    yield "w4_mae_distort", dict(bits=4, distort=True, codes="tiled")
    yield "w3_mae_nofloor", dict(floor=False)
    yield "w3_mae_balanced", dict(statistic="balanced")
    yield "w3_mae_r1", dict(ratio=1.0)
    yield "w3_mae_pooled", dict(average="pooled")
    yield "w3_awq", dict(reweight=False, loss="mse")
    yield "w3_mae_g32", dict(group=32, codes="tiled")
    yield "w3_mae_g64", dict(group=64)
    yield "w3_mae_row", dict(group=0)
    yield "w4_mae_g32_f16", dict(bits=4, group=32, arith="f16", codes="tiled")
    yield "w8_mae_g32_bf16", dict(bits=8, group=32, arith="bf16", codes="tiled")
    yield "w4a8_mae", dict(bits=4, codes="tiled", **ACTS)
    yield "w4a8_mae_distort", dict(bits=4, distort=True, **ACTS)
    yield "w8a8_mse", dict(bits=8, loss="mse", codes="mha", **ACTS)


# ---------------------------------------------------------------- arithmetic

def rounder(arith):
    """The result of every elementary operation goes through this; f32 keeps it as it is."""
    kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[arith]
    return lambda x: torch.as_tensor(x, dtype=torch.float32).to(kind).float()


def storable(scale):
    """Group scales are kept as f16; one that would vanish becomes the smallest f16 above zero."""
    h = scale.half().float()
    return torch.where(h == 0, torch.tensor(TINY_HALF), h)


def quantize(w, bits, group, arith, grid="asym"):
    """Round-to-nearest of w [N,K] in groups along K (the last may be short, 0 = the whole row).

    Returns codes [N,K], scales [N,G], zeros [N,G] and the group number of each column.
    """
    rd, top = rounder(arith), 2 ** bits - 1
    n, k = w.shape
    size = group if 0 < group < k else k
    index = torch.arange(k) // size
    codes, scales, zeros = torch.zeros(n, k), [], []
    for g in range(int(index[-1]) + 1):
        part = w[:, index == g]
        low, high = part.min(1).values, part.max(1).values
        if grid == "sym":
            s = storable(rd(torch.maximum(torch.maximum(high.abs(), low.abs()), rd(1e-5)) / (2 ** (bits - 1) - 1)))
            z = torch.full_like(s, 2 ** (bits - 1))
        else:
            span = torch.maximum(rd(high - low), rd(1e-5))
            s = storable(rd(span / top))
            z = torch.clamp(-torch.round(rd(low / s)), 0, top)  # torch.round is half to even
        codes[:, index == g] = torch.clamp(torch.round(rd(part / s[:, None])) + z[:, None], 0, top)
        scales.append(s)
        zeros.append(z)
    return codes, torch.stack(scales, 1), torch.stack(zeros, 1), index


def dequantize(codes, scales, zeros, index):
    return (codes - zeros[:, index]) * scales[:, index]


def grid_of(cfg):
    return cfg.get("grid", "asym")


def byte_rows(x, s=None):
    """Bytes with one scale per token, dequantized; s: of x / s, and multiplied by s again."""
    y = x if s is None else x / s
    top = y.abs().amax(-1, keepdim=True)
    y = torch.round(y * (127.0 / top)) * (top / 127.0)
    return y if s is None else y * s


def candidate_scale(m, k, arith):
    rd = rounder(arith)
    s = torch.maximum(rd(torch.pow(rd(m), k / CANDIDATES)), rd(1e-4))
    return rd(s / rd(torch.sqrt(rd(s.max() * s.min()))))


def simulate(w, s, cfg):
    """Q(W diag(s)) diag(1/s)."""
    rd = rounder(cfg["arith"])
    return rd(rd(dequantize(*quantize(rd(w * s), cfg["bits"], cfg["group"], cfg["arith"], grid_of(cfg)))) / s)


# ---------------------------------------------------------------- one decoder block, written out

class Block:
    """A Qwen2 decoder block as a dictionary of f32 tensors."""

    LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

    def __init__(self, tensors, heads, kv_heads, eps, theta):
        self.t, self.heads, self.kv, self.eps, self.theta = dict(tensors), heads, kv_heads, eps, theta
        self.reads = {}  # linear -> what becomes of its input

    def copy(self):
        b = Block(self.t, self.heads, self.kv, self.eps, self.theta)
        b.reads = dict(self.reads)
        return b

    def norm(self, x, name):
        return self.t[name] * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))

    def linear(self, x, name):
        y = self.reads.get(name, lambda x: x)(x) @ self.t[name + ".weight"].T
        return y + self.t[name + ".bias"] if name + ".bias" in self.t else y

    def rope(self, x):
        d, n = x.shape[-1], x.shape[-2]
        f = 1.0 / self.theta ** (torch.arange(0, d, 2).float() / d)
        a = torch.arange(n).float()[:, None] * f
        cos, sin = torch.cat((a.cos(), a.cos()), -1), torch.cat((a.sin(), a.sin()), -1)
        return x * cos + torch.cat((-x[..., d // 2:], x[..., :d // 2]), -1) * sin

    def mix(self, x):
        """Normed input -> o_proj's input."""
        n, heads = x.shape[0], lambda y, h: y.view(n, h, -1).transpose(0, 1)
        q = self.rope(heads(self.linear(x, "q_proj"), self.heads))
        k = self.rope(heads(self.linear(x, "k_proj"), self.kv)).repeat_interleave(self.heads // self.kv, 0)
        v = heads(self.linear(x, "v_proj"), self.kv).repeat_interleave(self.heads // self.kv, 0)
        p = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
        p = (p + torch.full((n, n), float("-inf")).triu(1)).softmax(-1)
        return (p @ v).transpose(0, 1).reshape(n, -1)

    def gated(self, x):
        g = self.linear(x, "gate_proj")
        return g * torch.sigmoid(g) * self.linear(x, "up_proj")

    def inputs(self, h):
        """What the linears of each group read when the block reads h, and the block's output."""
        a = self.norm(h, "input_layernorm")
        b = self.mix(a)
        h = h + self.linear(b, "o_proj")
        d = self.norm(h, "post_attention_layernorm")
        e = self.gated(d)
        return {"qkv": a, "o": b, "gate_up": d, "down": e}, h + self.linear(e, "down_proj")

    def inspected(self, group, x):
        """The output that is compared while a group is searched, from that group's input."""
        if group == "qkv":
            return self.linear(self.mix(x), "o_proj")
        if group == "gate_up":
            return self.linear(self.gated(x), "down_proj")
        return self.linear(x, {"o": "o_proj", "down": "down_proj"}[group])


GROUPS = {"qkv": (["q_proj", "k_proj", "v_proj"], "attn"), "o": (["o_proj"], "attn"),
          "gate_up": (["gate_proj", "up_proj"], "mlp"), "down": (["down_proj"], "mlp")}


def groups_of(block):
    mha = block.t["v_proj.weight"].shape == block.t["o_proj.weight"].shape
    return [g for g in GROUPS if g != "o" or mha]


def fold(block, scales, arith):
    """A copy of the block with the scales found so far folded into weights and norms, in the order of the groups."""
    rd, b = rounder(arith), block.copy()
    for g, s in scales.items():
        for name in GROUPS[g][0]:
            b.t[name + ".weight"] = rd(b.t[name + ".weight"] * s)
        if g in ("qkv", "gate_up"):
            norm = {"qkv": "input_layernorm", "gate_up": "post_attention_layernorm"}[g]
            b.t[norm] = rd(b.t[norm] / s)
        else:
            producer = {"o": "v_proj", "down": "up_proj"}[g]
            b.t[producer + ".weight"] = rd(b.t[producer + ".weight"] / s[:, None])
            if producer + ".bias" in b.t:
                b.t[producer + ".bias"] = rd(b.t[producer + ".bias"] / s)
    return b


def quantized(block, cfg):
    """All seven linears replaced by their dequantized values; also the packed parts."""
    b, packed = block.copy(), {}
    for name in Block.LINEARS:
        q = quantize(b.t[name + ".weight"], cfg["bits"], cfg["group"], cfg["arith"], grid_of(cfg))
        if cfg.get("act"):
            b.reads[name] = byte_rows
        b.t[name + ".weight"] = dequantize(*q)
        packed[name] = q
    return b, packed


# ---------------------------------------------------------------- the search

def ratios(gradients, cfg):
    """Per layer and sub-block: gv, gl, their ratio, and the ratio after the median floor."""
    key = {"samples": "abs_mean", "pooled": "abs_pooled"}[cfg["average"]]
    layers = [{s: {"gv": l[s]["vision"][key], "gl": l[s]["answer"][key]} for s in ("attn", "mlp")} for l in gradients["layers"]]
    for sub in ("attn", "mlp"):
        for l in layers:
            l[sub]["r_raw"] = l[sub]["gv"] / l[sub]["gl"]
        median = statistics.median(l[sub]["r_raw"] for l in layers)  # even count: mean of the middle two
        for l in layers:
            r = max(l[sub]["r_raw"], median) if cfg["floor"] else l[sub]["r_raw"]
            l[sub]["r"] = cfg["ratio"] if cfg["ratio"] is not None else r
    return layers


def statistic(xs, tags, r, cfg):
    """m: per channel mean |x| over all rows, or weighed by modality."""
    x, t = torch.cat(xs).double().abs(), torch.cat(tags)
    w = torch.ones(len(t), dtype=torch.float64)
    if cfg["statistic"] == "balanced":
        w = (t == ANSWER).double() + r * (t == VISION).double()
    return ((w[:, None] * x).sum(0) / w.sum()).float()


def loss(reference, candidate, tags, r, cfg):
    d = torch.cat([a - b for a, b in zip(reference, candidate)]).double()  # subtracted in f32, summed in f64
    t = torch.cat(tags)
    d = d.abs() if cfg["loss"] == "mae" else d * d
    if not cfg["reweight"]:
        return float(d.mean())
    a, v = d[t == ANSWER], d[t == VISION]
    if cfg["loss"] == "mae":
        return float((a.sum() + r * v.sum()) / (a.numel() + v.numel()))
    return float(a.mean() + r * v.mean())


def search_group(block, group, x_ref, x_cand, tags, r, cfg):
    reference = [block.inspected(group, x) for x in x_ref]
    m = statistic(x_cand, tags, r, cfg)
    losses, best, best_s = [], None, None
    for k in range(CANDIDATES):
        s = candidate_scale(m, k, cfg["arith"])
        trial = block.copy()
        for name in GROUPS[group][0]:
            trial.t[name + ".weight"] = simulate(block.t[name + ".weight"], s, cfg)
            if cfg.get("act"):
                trial.reads[name] = lambda x, s=s: byte_rows(x, s)
        losses.append(loss(reference, [trial.inspected(group, x) for x in x_cand], tags, r, cfg))
        if best is None or losses[-1] < losses[best]:
            best, best_s = k, s
    return m, losses, best, best_s


def run(blocks, embeds, tags, ratio, cfg):
    """Returns per layer the search record, and per layer the folded and quantized block with its packed parts."""
    h, hq = list(embeds), list(embeds)  # the float stream and the quantized stream
    records, done = [], []
    for block, r in zip(blocks, ratio):
        reference = [block.inputs(x) for x in h]
        scales, record = {}, {}
        for g in groups_of(block):
            x_ref = x_cand = [ins[g] for ins, _ in reference]
            if cfg["distort"]:
                seen = block if not scales else quantized(fold(block, scales, cfg["arith"]), cfg)[0]
                x_cand = [seen.inputs(x)[0][g] for x in hq]
            ratio_g = r[GROUPS[g][1]]["r"]
            m, losses, best, s = search_group(block, g, x_ref, x_cand, tags, ratio_g, cfg)
            scales[g], record[g] = s, dict(m=m, losses=losses, index=best, s=s)
        q = quantized(fold(block, scales, cfg["arith"]), cfg)
        h, hq = [out for _, out in reference], [q[0].inputs(x)[1] for x in hq]
        records.append(record)
        done.append(q)
    return records, done, hq


# ---------------------------------------------------------------- files

def numbers(v):
    """f32 values with nine digits, f64 as they are."""
    return [float(f"{x:.9g}") for x in v.tolist()] if isinstance(v, torch.Tensor) else v


def load_case(case):
    folder = GOLDEN / case
    state, text = load_file(folder / "model" / "model.safetensors"), json.loads((folder / "model" / "config.json").read_text())["text_config"]
    blocks = []
    for i in range(text["num_hidden_layers"]):
        t = {}
        for k, v in state.items():
            if k.startswith(f"model.language_model.layers.{i}."):
                parts = k.split(".")[4:]  # e.g. self_attn q_proj weight, or input_layernorm weight
                t[parts[0] if "norm" in parts[0] else ".".join(parts[1:])] = v
        blocks.append(Block(t, text["num_attention_heads"], text["num_key_value_heads"], text["rms_norm_eps"], text["rope_theta"]))
    calib, n = load_file(folder / "calib.safetensors"), 3
    embeds = [calib[f"sample{i}.inputs_embeds"] for i in range(n)]
    tags = [calib[f"sample{i}.modality"] for i in range(n)]
    gradients = json.loads((folder / "gradients.json").read_text())
    head = lambda x: (state["model.language_model.norm.weight"] * (
        x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + text["rms_norm_eps"]))) @ state["lm_head.weight"].T
    return blocks, embeds, tags, gradients, head


def check_against_transformers(case, blocks, embeds, head):
    """The block written out above must be the block transformers runs."""
    model = c.load_model(GOLDEN / case / "model")
    with torch.no_grad():
        want = model(inputs_embeds=embeds[1][None], use_cache=False).logits[0]
    x = embeds[1]
    for b in blocks:
        x = b.inputs(x)[1]
    error = float((head(x) - want).abs().max())
    assert error < 1e-3, error
    return want, error


def edge_rows():
    """Rows that break careless quantizers: 72 columns, so that groups of 32 end with a short one of 8."""
    g = torch.Generator().manual_seed(7)
    n = torch.randn(12, 72, generator=g)
    n[1] = n[1].abs() + 0.5            # one-sided: the zero is clamped and the top saturates
    n[2] = -n[2].abs() - 0.5
    n[3] = 0.25                        # constant: the span is the floor of 1e-5, the value is lost
    n[4] = 0
    n[5] *= 1e-7                       # scales that round to the smallest f16
    n[6, 40] = 300.0                   # an outlier
    n[7] = (torch.arange(72) % 15 - 8) / 8.0     # ties at 3 bits: scale 1/4, values at odd multiples of 1/8
    n[8] *= 1e4
    n[9] = (torch.arange(72) * 7 % 511 - 256) / 128.0  # ties at 8 bits in a whole row
    n[9, 0], n[9, 1] = -2.0, 255 / 64 - 2.0
    n[10] = n[10].bfloat16().float()
    n[11] = n[11].abs()
    n[11, ::9] = -0.0
    return n


def write_edges():
    (GOLDEN / "rtn").mkdir(exist_ok=True)
    w = edge_rows()
    out = {"weight": w}
    for bits in (2, 3, 4, 8):
        for group in (32, 0):
            codes, s, z, _ = quantize(w, bits, group, "f32")
            at = f"b{bits}.g{group}."
            out.update({at + "codes": codes.to(torch.uint8), at + "scales": s.half(), at + "zeros": z.to(torch.uint8)})
    c.save_tensors(GOLDEN / "rtn" / "edges.safetensors", out)


def main():
    torch.set_num_threads(1)
    write_edges()
    only = sys.argv[1:]
    for case in ("tiled", "mha"):
        blocks, embeds, tags, gradients, head = load_case(case)
        want, error = check_against_transformers(case, blocks, embeds, head)
        print(f"{case}: float logits agree with transformers to {error:.1e}")
        rows = torch.nonzero(tags[1][1:] == ANSWER)[:, 0]  # of sample 1 (the shortest): what predicts its answer
        for name, changes in configs():
            if only and name not in only:
                continue
            cfg = {**BASE, **changes}
            ratio = ratios(gradients, cfg)
            records, done, hq = run(blocks, embeds, tags, ratio, cfg)
            c.write_json(GOLDEN / case / f"mbq_{name}.json", {
                "config": {k: v for k, v in cfg.items() if k != "codes"},
                "ratios": ratio,
                **{f"layer.{i}.{g}": {k: numbers(v) for k, v in e.items()} for i, r in enumerate(records) for g, e in r.items()}})
            logits = head(hq[1])[rows]
            out = {"logits": logits, "logits.rows": rows}
            if cfg["codes"] is True or cfg["codes"] == case:
                for i, (_, packed) in enumerate(done):
                    for linear, (codes, s, z, _) in packed.items():
                        out[f"layer.{i}.{linear}.codes"] = codes.to(torch.uint8)
                        out[f"layer.{i}.{linear}.scales"] = s.half()
                        out[f"layer.{i}.{linear}.zeros"] = z.to(torch.uint8)
            c.save_tensors(GOLDEN / case / f"mbq_{name}.safetensors", out)
            p, q = want[rows].log_softmax(-1).double(), logits.log_softmax(-1).double()
            gaps = [sorted(e["losses"]) for r in records for e in r.values()]
            print(f"  {name:18} index {[[e['index'] for e in r.values()] for r in records]}"
                  f" smallest gap {min((g[1] - g[0]) / g[0] for g in gaps):.1e}"
                  f" gain {np.mean([1 - g[0] / e['losses'][0] for g, e in zip(gaps, [e for r in records for e in r.values()])]):.2f}"
                  f" KL {float((p.exp() * (p - q)).sum(-1).mean()):.4f}")


if __name__ == "__main__":
    main()
