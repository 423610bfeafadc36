"""(C) Tiny random-weight checkpoints of the other families, and what their originals compute from them.

Each model stands in families/NAME/model with its weights in f16; the oracle computes in f32 from those f16 values. Each case
is families/NAME/CASE.json and CASE.safetensors: the ids of the prompt with -1 where a picture goes (`prompt`), pictures
relative to families/, the taps, and 64 greedy tokens. Run one family with `families.py NAME ...`, all without arguments.
"""
import json
import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

import common as c
import internlm2

ROOT = c.GOLDEN / "families"
GREEDY = 64
SLOT = -1


def tokenizer(extra=()):
    """The tiny tokenizer with the family's added tokens behind it."""
    tok = c.make_tokenizer()
    tok.add_special_tokens({"additional_special_tokens": c.SPECIALS[1:] + list(extra)})
    return tok


def randomise(model, seed):
    """Every parameter random, of a size that keeps activations O(1) and lets the head decide."""
    g = torch.Generator().manual_seed(seed)
    normal = lambda p, std: p.copy_(torch.randn(p.shape, generator=g) * std)
    with torch.no_grad():
        for name, p in model.named_parameters():
            leaf = name.split(".")[-1]
            if p.dim() == 1 and leaf == "weight":  # a norm; loud channels in the decoder's
                loud = 0.5 if "vision" not in name and "visual" not in name else 0.2
                p.copy_(torch.exp(loud * torch.randn(p.shape, generator=g)))
            elif leaf == "bias":
                normal(p, 0.2)
            elif any(s in name for s in ("position_embed", "class_embedding", "cls_token")):
                normal(p, 0.5)
            elif any(s in name for s in ("lambda_", ".ls1", ".ls2")):
                p.copy_(0.5 + torch.rand(p.shape, generator=g))
            elif any(s in name for s in ("embed_tokens", "tok_embeddings", "lm_head", "output.weight")):
                normal(p, 3 / p.shape[1] ** 0.5)
            else:
                normal(p, 1.2 / p[0].numel() ** 0.5)
            p.copy_(p.half().float())
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    return model.float().eval()


def save(name, model, tok, rename=lambda n: n, config=None, processor=None, drop=()):
    folder = ROOT / name / "model"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        stale.unlink()
    state = dict(model.state_dict())
    tied = {id(v): k for k, v in model.named_parameters()}
    if getattr(model, "_tied_weights_keys", None) and model.config.tie_word_embeddings:
        for k in model._tied_weights_keys:
            state.pop(k, None)
    save_file({rename(k): v.half().contiguous() for k, v in state.items() if k not in drop}, folder / "model.safetensors",
              metadata={"format": "pt"})
    config = config or model.config.to_diff_dict() | {"model_type": model.config.model_type}
    for k in ("transformers_version", "dtype"):
        config.pop(k, None)
    c.write_json(folder / "config.json", config | {"torch_dtype": "float16"})
    c.write_json(folder / "generation_config.json", {"eos_token_id": tok.convert_tokens_to_ids("<|im_end|>")})
    if processor:
        c.write_json(folder / "preprocessor_config.json", processor)
    c.save_tokenizer(tok, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    for f in folder.iterdir():
        f.chmod(0o644)


class Taps:
    """What modules put out during one forward pass, under the names that the tests use."""

    def __init__(self):
        self.t, self.handles = {}, []

    def put(self, name, value):
        value = value[0] if isinstance(value, tuple) else value
        self.t[name] = value.detach().float().clone().contiguous()

    def out(self, module, name, change=lambda v: v):
        self.handles.append(module.register_forward_hook(
            lambda mod, a, v: self.put(name, change(v[0] if isinstance(v, tuple) else v))))

    def into(self, module, name, change=lambda v: v):
        self.handles.append(module.register_forward_pre_hook(
            lambda mod, a, k: self.put(name, change(a[0] if a else k["hidden_states"])), with_kwargs=True))

    def decoder(self, layers, norm, attn=lambda l: l.self_attn.o_proj, mlp=lambda l: l.mlp.down_proj):
        first = lambda v: v[0]  # no batch dimension
        self.into(layers[0], "inputs_embeds", first)
        for i, layer in enumerate(layers):
            self.out(attn(layer), f"text.layer.{i}.attn", first)
            self.out(mlp(layer), f"text.layer.{i}.mlp", first)
            self.out(layer, f"text.layer.{i}", first)
        self.out(norm, "text.norm", first)

    def close(self):
        for h in self.handles:
            h.remove()


def greedy(forward, ids, steps=GREEDY):
    """forward(ids) -> logits of the last position. Also the smallest gap between the two best logits on the way."""
    out, gap = [], 1e9
    ids = list(ids)
    for _ in range(steps):
        z = forward(torch.tensor([ids]))
        best = z.topk(2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        out.append(int(best.indices[0]))
        ids.append(out[-1])
    return out, gap


def write_case(name, case, prompt, taps, logits, tokens, gap, images=(), extra=None, ids=None):
    t = dict(taps)
    t["input_ids"] = torch.tensor(ids if ids is not None else prompt)
    t["logits"] = logits.detach().float()
    c.save_tensors(ROOT / name / f"{case}.safetensors", t)
    c.write_json(ROOT / name / f"{case}.json", {
        "model": f"{name}/model", "images": list(images), "prompt": list(prompt), "positions": len(logits),
        "greedy": tokens, "smallest_gap": round(gap, 5)} | (extra or {}))
    spread = {k: round(float(v.float().std()), 2) for k, v in t.items() if k not in ("input_ids",)}
    print(name, case, "positions", len(logits), "gap", round(gap, 4), "distinct", len(set(tokens)))
    print("   std", spread)


# ---------------------------------------------------------------- language models

PROMPT_TEXT = "<|im_start|>user\nTell me a short story about a cat and a dog.<|im_end|>\n<|im_start|>assistant\n"
TINY = dict(vocab_size=400, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5, bos_token_id=None, eos_token_id=None,
            pad_token_id=None)


ANSWER = 12


def gradients(model, logits_of, layers, ids, attn, mlp):
    """Mean |g| over the last ANSWER positions at every sub-block's output, for the mean cross-entropy of those tokens."""
    kept, handles = [], []
    for layer in layers:
        for module in (attn(layer), mlp(layer)):
            handles.append(module.register_forward_hook(lambda mod, a, out: (out.retain_grad(), kept.append(out))[0]))
    z = logits_of(torch.tensor([ids]))
    n = len(ids)
    torch.nn.functional.cross_entropy(z[n - ANSWER - 1:n - 1], torch.tensor(ids[n - ANSWER:])).backward()
    for h in handles:
        h.remove()
    return [float(t.grad[0, n - ANSWER:].abs().double().mean()) for t in kept]


def text_case(name, model, tok, inner, case="text", attn=lambda l: l.self_attn.o_proj, mlp=lambda l: l.mlp.down_proj):
    prompt = tok(PROMPT_TEXT)["input_ids"]
    t = Taps()
    t.decoder(inner.layers, inner.norm, attn, mlp)
    logits_of = lambda ids: (lambda o: getattr(o, "logits", o))(model(ids))[0]
    with torch.no_grad():
        logits = logits_of(torch.tensor([prompt]))
        t.close()
        tokens, gap = greedy(lambda ids: logits_of(ids)[-1], prompt)
    grads = gradients(model, logits_of, inner.layers, prompt, attn, mlp)
    write_case(name, case, prompt, t.t, logits, tokens, gap, extra={"gradients": grads})


def text_model(name, model, seed):
    tok = tokenizer()
    randomise(model, seed)
    save(name, model, tok)
    text_case(name, model, tok, model.model)


def eager(config):
    config._attn_implementation = "eager"
    return config


def make_llama():
    """Tied head, a head size of its own, Llama 3.1's rotary scaling with wavelengths on both sides of its bounds."""
    rope = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=64)
    text_model("llama", LlamaForCausalLM(eager(LlamaConfig(**TINY | dict(
        head_dim=16, rope_theta=500000.0, rope_scaling=rope, tie_word_embeddings=True)))), 31)


def make_llama_bias():
    """Biases everywhere, one K/V head, linear scaling."""
    text_model("llama_bias", LlamaForCausalLM(eager(LlamaConfig(**TINY | dict(
        num_key_value_heads=1, attention_bias=True, mlp_bias=True, rope_scaling=dict(rope_type="linear", factor=2.5),
        tie_word_embeddings=False)))), 32)


def make_qwen2():
    """Biases on q, k, v; YaRN."""
    rope = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)
    text_model("qwen2", Qwen2ForCausalLM(eager(Qwen2Config(**TINY | dict(
        rope_theta=1e4, rope_scaling=rope, tie_word_embeddings=False)))), 33)


def make_qwen3():
    """Norms over the heads of q and k, heads larger than the width divided by their number."""
    text_model("qwen3", Qwen3ForCausalLM(eager(Qwen3Config(**TINY | dict(
        head_dim=20, rope_theta=1e6, tie_word_embeddings=True)))), 34)


def make_internlm2():
    """q, k and v in one tensor, group by group; names of its own; written here from the published description."""
    tok = tokenizer()
    model = internlm2.CausalLM(internlm2.Config(vocab=400, hidden=48, layers=2, heads=4, kv_heads=2, inter=80, theta=1e6,
                                                eps=1e-5))
    randomise(model, 35)
    save("internlm2", model, tok, config=dict(
        model_type="internlm2", architectures=["InternLM2ForCausalLM"], attn_implementation="eager", bias=False,
        hidden_act="silu", hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=400, max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=1000000,
        rope_scaling=dict(type="dynamic", factor=2.0), tie_word_embeddings=False))
    text_case("internlm2", model, tok, model.model, attn=lambda l: l.attention.wo, mlp=lambda l: l.feed_forward.w2)


def main():
    wanted = sys.argv[1:]
    for key, make in list(globals().items()):
        if key.startswith("make_") and (not wanted or key[5:] in wanted):
            make()


if __name__ == "__main__":
    main()
