"""Runs the published programs of GPTQ and AWQ on small tensors and writes what they decide to originals/. Their code is not
part of this project: give checkouts of

    https://github.com/IST-DASLab/gptq        commit 2d65066 (Apache-2.0)
    https://github.com/mit-han-lab/llm-awq    commit d6e797a (MIT)

    python originals.py GPTQ_CHECKOUT LLM_AWQ_CHECKOUT

Both keep scales as f32, Ballast as f16, so each runs twice: as it is, and with every scale rounded to f16 where it is born.
Nothing else is changed, but that calls of CUDA do nothing. AWQ's stack is that of mbq_oracle.py; it also needs tqdm.
"""
import contextlib
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
MODEL, BITS = "mha", (3, 4)


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


# ---------------------------------------------------------------- AWQ

def stub(name, **members):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(members)


def import_awq(checkout):
    """auto_scale and quantizer alone: the package's __init__ loads kernels."""
    for name in ("awq", "awq.quantize"):
        stub(name, __path__=[f"{checkout}/{name.replace('.', '/')}"])
    stub("awq_inference_engine")
    from awq.quantize import auto_scale, quantizer
    return auto_scale, quantizer


def inputs_of(layer, names, run):
    """What enters the linears during one run, as the original gathers it."""
    seen, hooks = {}, []
    for name in names:
        module = layer.get_submodule(name)
        hooks.append(module.register_forward_pre_hook(lambda m, a, name=name: seen.__setitem__(name, a[0].detach().clone())))
    out = run()
    for h in hooks:
        h.remove()
    return seen, out


def search(auto_scale, layer, kwargs, bits, feats):
    """auto_scale_block with the losses of all candidates, which it keeps to itself."""
    histories = []
    item = torch.Tensor.item

    def watched_item(self):
        value = item(self)
        if sys._getframe(1).f_code.co_name == "_search_module_scale":
            histories.append(value)
        return value

    torch.Tensor.item = watched_item
    try:
        found = auto_scale.auto_scale_block(layer, dict(kwargs), bits, dict(zero_point=True, q_group_size=-1), feats)
    finally:
        torch.Tensor.item = item
    assert len(histories) == 20 * len(found)
    return [(scales, histories[20 * i:20 * i + 20]) for i, (_, _, scales) in enumerate(found)]


@torch.no_grad()
def awq(checkout):
    auto_scale, quantizer = import_awq(checkout)
    exact = quantizer.pseudo_quantize_tensor

    def rounded(w, n_bit=8, **kwargs):
        """The original's function, every f32 scale replaced by its f16 neighbour."""
        divide = torch.Tensor.__truediv__
        torch.Tensor.__truediv__ = lambda a, b: storable(divide(a, b)) if isinstance(b, int) else divide(a, b)
        try:
            return exact(w, n_bit=n_bit, **kwargs)
        finally:
            torch.Tensor.__truediv__ = divide

    model = LlavaOnevisionForConditionalGeneration.from_pretrained(c.GOLDEN / MODEL / "model", attn_implementation="eager").eval()
    language = model.model.language_model
    calib = load_file(c.GOLDEN / MODEL / "calib.safetensors")
    h = calib["sample0.inputs_embeds"].float()[None]
    n = h.shape[1]
    mask = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)[None, None]
    kwargs = dict(attention_mask=mask, position_embeddings=language.rotary_emb(h, torch.arange(n)[None]))
    names = ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"]
    result = {}
    for index, layer in enumerate(language.layers):
        def run():
            y = layer(h, **kwargs)
            return y[0] if isinstance(y, tuple) else y
        feats, after = inputs_of(layer, names, run)
        for bits in BITS:
            for kind, function in (("f32", exact), ("f16", rounded)):
                quantizer.pseudo_quantize_tensor = function
                for group, (scales, losses) in zip(("qkv", "o", "gate_up", "down"), search(auto_scale, layer, kwargs, bits, feats)):
                    result[f"layer{index}.b{bits}.{kind}.{group}"] = {
                        "losses": [float(f"{v:.9g}") for v in losses], "s": [float(f"{v:.9g}") for v in scales.tolist()]}
        h = after
    c.write_json(OUT / "awq.json", result)


def main():
    torch.cuda.synchronize = lambda *a: None
    OUT.mkdir(exist_ok=True)
    gptq(sys.argv[1])
    awq(sys.argv[2])


if __name__ == "__main__":
    main()
