"""Runs the published programs of GPTQ, AWQ and MBQ on small tensors and writes what they decide to originals/. Their code is not
part of this project: give checkouts of

    https://github.com/IST-DASLab/gptq        commit 2d65066 (Apache-2.0)
    https://github.com/mit-han-lab/llm-awq    commit d6e797a (MIT)
    https://github.com/thu-nics/MBQ           commit a4d460d (MIT)

    python originals.py GPTQ_CHECKOUT LLM_AWQ_CHECKOUT MBQ_CHECKOUT

All keep scales as f32, Ballast as f16, so each runs twice: as it is, and with every scale rounded to f16 where it is born.
Nothing else is changed, but that there is no GPU. Needs what mbq_oracle.py needs, and tqdm.
"""
import contextlib
import importlib
import io
import sys
import types

import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from transformers import LlavaOnevisionForConditionalGeneration

import common as c

OUT = c.GOLDEN / "originals"
ROWS, K, N, GROUP, DEAD = 240, 192, 32, 64, 100
MODEL, BITS, RATIO, Q_CONFIG = "mha", (3, 4), {"attn": 0.5, "mlp": 0.25}, {"zero_point": True, "q_group_size": -1}


def storable(scale):
    return scale.half().float()


# ---------------------------------------------------------------- GPTQ

def tensors():
    """Channels that move together, one of them loud, one dead; weights with heavy tails. All representable in f16."""
    rng = np.random.default_rng(11)
    mix = rng.normal(size=(K, K)) / np.sqrt(K)
    x = rng.normal(size=(ROWS, K)) @ mix + 0.3 * rng.normal(size=(ROWS, K))
    x[:, 20] *= 12
    x[:, DEAD] = 0
    return x.astype(np.float16), rng.standard_t(5, size=(N, K)).astype(np.float16)


def run_gptq(original, x, w, bits, by_size, f16):
    layer = torch.nn.Linear(K, N, bias=False)
    layer.weight.data = torch.from_numpy(w.astype(np.float32))
    solver = original.GPTQ(layer)
    solver.quantizer = original.Quantizer()
    solver.quantizer.configure(bits, perchannel=True, sym=False, mse=False)
    find = original.Quantizer.find_params

    def find_f16(self, *args, **kwargs):
        find(self, *args, **kwargs)
        self.scale = storable(self.scale)

    if f16:
        original.Quantizer.find_params = find_f16
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        solver.add_batch(torch.from_numpy(x.astype(np.float32))[:, None], None)  # ROWS samples of one token
        solver.fasterquant(percdamp=0.01, groupsize=GROUP, actorder=by_size, static_groups=True)
    original.Quantizer.find_params = find
    loss = float(said.getvalue().split("error")[1])
    return layer.weight.data.numpy(), loss


def grid(original, w, bits, f16):
    """Scale and zero point that its static groups have; weights of inputs that are always 0 are set to 0 before."""
    w = w.copy()
    w[:, DEAD] = 0
    q = original.Quantizer()
    q.configure(bits, perchannel=True, sym=False, mse=False)
    scales, zeros = [], []
    for at in range(0, K, GROUP):
        q.find_params(torch.from_numpy(w.astype(np.float32))[:, at:at + GROUP], weight=True)
        scales.append(storable(q.scale) if f16 else q.scale.clone())
        zeros.append(q.zero.clone())
    return torch.cat(scales, 1).numpy(), torch.cat(zeros, 1).numpy()


def gptq(checkout):
    sys.path.insert(0, checkout)
    import gptq as original
    x, w = tensors()
    out, losses = {"x": x, "w": w}, {}
    for bits in (2, 3, 4):
        for f16 in (False, True):
            s, z = grid(original, w, bits, f16)
            if f16:
                out[f"b{bits}.scales"], out[f"b{bits}.zeros"] = s.astype(np.float16), z.astype(np.uint8)
            for by_size in (False, True):
                name = f"b{bits}.{'diag' if by_size else 'none'}.{'f16' if f16 else 'f32'}"
                q, losses[name] = run_gptq(original, x, w, bits, by_size, f16)
                codes = np.rint(q / np.repeat(s, GROUP, 1)) + np.repeat(z, GROUP, 1)
                out[f"{name}.codes"] = codes.astype(np.uint8)
    save_file(out, OUT / "gptq.safetensors")
    c.write_json(OUT / "gptq.json", losses)


# ---------------------------------------------------------------- AWQ and MBQ

def stub(name, **members):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(members)


def import_parts(checkout, parts):
    """Modules of a package without its __init__, which loads kernels."""
    for name in {".".join(part.split(".")[:i]) for part in parts for i in range(1, part.count(".") + 1)}:
        stub(name, __path__=[f"{checkout}/{name.replace('.', '/')}"])
    return [importlib.import_module(part) for part in parts]


def rounded(exact):
    """The original's quantizer, every f32 scale replaced by its f16 neighbour: only scales come from dividing by an int."""
    def function(w, **kwargs):
        divide = torch.Tensor.__truediv__
        torch.Tensor.__truediv__ = lambda a, b: storable(divide(a, b)) if isinstance(b, int) else divide(a, b)
        try:
            return exact(w, **kwargs)
        finally:
            torch.Tensor.__truediv__ = divide
    return function


def inputs_of(layer, run):
    """What enters the linears during one run, as the originals gather it, and what comes out."""
    names = ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"]
    seen, hooks = {}, []
    for name in names:
        module = layer.get_submodule(name)
        hooks.append(module.register_forward_pre_hook(lambda m, a, name=name: seen.__setitem__(name, a[0].detach().clone())))
    out = run()
    for h in hooks:
        h.remove()
    return seen, out[0] if isinstance(out, tuple) else out


def search(function):
    """Scales that an auto_scale_block finds, with the losses of all candidates, which it keeps to itself."""
    histories = []

    def watch(frame, event, _):
        if event == "return" and frame.f_code.co_name.startswith("_search_module_scale"):
            histories.append([float(v) for v in frame.f_locals["history"]])

    sys.setprofile(watch)
    try:
        found = function()
    finally:
        sys.setprofile(None)
    nine = lambda values: [float(f"{v:.9g}") for v in values]
    return {group: {"losses": nine(losses), "s": nine(scales.tolist())}
            for group, (_, _, scales), losses in zip(("qkv", "o", "gate_up", "down"), found, histories, strict=True)}


def layers():
    """Each decoder layer of MODEL with what auto_scale_block takes, on sample 0 of the calibration set; modality of its tokens."""
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(c.GOLDEN / MODEL / "model", attn_implementation="eager").eval()
    language = model.model.language_model
    calib = load_file(c.GOLDEN / MODEL / "calib.safetensors")
    h = calib["sample0.inputs_embeds"].float()[None]
    n = h.shape[1]
    mask = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)[None, None]
    kwargs = dict(attention_mask=mask, position_embeddings=language.rotary_emb(h, torch.arange(n)[None]))
    for index, layer in enumerate(language.layers):
        feats, after = inputs_of(layer, lambda: layer(h, **kwargs))
        yield index, layer, kwargs, feats, calib["sample0.modality"][None]
        h = after


@torch.no_grad()
def awq(checkout):
    stub("awq_inference_engine")
    auto_scale, quantizer = import_parts(checkout, ["awq.quantize.auto_scale", "awq.quantize.quantizer"])
    exact, result = quantizer.pseudo_quantize_tensor, {}
    for index, layer, kwargs, feats, _ in layers():
        for bits in BITS:
            for kind, function in (("f32", exact), ("f16", rounded(exact))):
                quantizer.pseudo_quantize_tensor = function
                groups = search(lambda: auto_scale.auto_scale_block(layer, dict(kwargs), bits, dict(Q_CONFIG), feats))
                result.update({f"layer{index}.b{bits}.{kind}.{group}": v for group, v in groups.items()})
    c.write_json(OUT / "awq.json", result)


@torch.no_grad()
def mbq(checkout):
    stub("accelerate")
    auto_scale, *_ = import_parts(checkout, ["qmllm.methods.mbq.quantize.auto_scale", "qmllm.utils.search",
                                             "qmllm.quantization.quant_funcs"])
    exact, result = auto_scale.pseudo_quantize_tensor, {}
    for index, layer, kwargs, feats, modality in layers():
        for loss in ("mae", "mse"):
            for kind, function in (("f32", exact), ("f16", rounded(exact))):
                auto_scale.pseudo_quantize_tensor = function
                groups = search(lambda: auto_scale.auto_scale_block(
                    layer, dict(kwargs), 3, dict(Q_CONFIG), feats, modality == c.ANSWER, modality == c.VISION, RATIO, loss))
                result.update({f"layer{index}.{loss}.{kind}.{group}": v for group, v in groups.items()})
    auto_scale_wa, qlinear, *_ = import_parts(checkout, ["qmllm.methods.mbq.quantize.auto_scale_wa", "qmllm.quantization.qlinear",
                                                         "qmllm.utils.search"])
    exact = qlinear.quantize_weight_per_channel_absmax
    for index, layer, kwargs, feats, modality in layers():
        for kind, function in (("f32", exact), ("f16", rounded(exact))):
            qlinear.quantize_weight_per_channel_absmax = function
            groups = search(lambda: auto_scale_wa.auto_scale_block_wa(
                layer, dict(kwargs), 4, 8, {}, feats, modality == c.ANSWER, modality == c.VISION, RATIO, "mae"))
            result.update({f"layer{index}.w4a8.{kind}.{group}": v for group, v in groups.items()})
    c.write_json(OUT / "mbq.json", result)


def main():
    torch.cuda.synchronize = lambda *a: None
    torch.Tensor.cuda = lambda self, *a: self
    torch.Tensor.cpu = lambda self: self.clone()  # from a GPU it is a copy, and the originals count on that
    OUT.mkdir(exist_ok=True)
    gptq(sys.argv[1])
    awq(sys.argv[2])
    mbq(sys.argv[3])


if __name__ == "__main__":
    main()
