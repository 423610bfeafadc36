"""Tiny random Qwen2-VL and Qwen2.5-VL checkpoints, and what transformers computes from them: taps, rotary positions and
64 greedy tokens. Every picture goes through the slow (Pillow) image processor."""
import json

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLConfig,
                          Qwen2VLForConditionalGeneration)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor, smart_resize

import common as c
from common import GOLDEN, IMAGE_PART, text_part

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
            "<|image_pad|>", "<|video_pad|>"]

# ChatML as the family uses it: a default system turn, pictures where they stand in the message.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")

MIN_PIXELS, MAX_PIXELS, GREEDY, ANSWER = 56 * 56, 130 * 28 * 28, 64, 12
MODELS = {"qwen2_vl": Qwen2VLForConditionalGeneration, "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration}


def make_config(tok, kind, tied, layers=3, kv_heads=2):
    ident = tok.convert_tokens_to_ids
    text = dict(vocab_size=400, hidden_size=64, intermediate_size=152, num_hidden_layers=layers, num_attention_heads=4,
                num_key_value_heads=kv_heads, max_position_embeddings=2048, rope_theta=1e6, rms_norm_eps=1e-6,
                rope_scaling={"type": "mrope", "mrope_section": [2, 3, 3]}, tie_word_embeddings=tied,
                bos_token_id=ident("<|endoftext|>"), eos_token_id=ident("<|im_end|>"))
    vision = dict(depth=3, num_heads=2, patch_size=14, spatial_merge_size=2, temporal_patch_size=2)
    ids = dict(image_token_id=ident("<|image_pad|>"), video_token_id=ident("<|video_pad|>"),
               vision_start_token_id=ident("<|vision_start|>"), vision_end_token_id=ident("<|vision_end|>"))
    if kind == "qwen2_vl":
        vision.update(embed_dim=32, hidden_size=64, mlp_ratio=3)
        return Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied, **ids)
    # 68 is to 32 what 3420 is to the rest of its tower: no multiple of 8
    vision.update(hidden_size=32, out_hidden_size=64, intermediate_size=68, window_size=112, fullatt_block_indexes=[1],
                  hidden_act="silu")
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied, **ids)


def make_model(config, seed):
    """Random weights, every bias and norm weight included, scaled so that activations are O(1) and the head decides."""
    torch.manual_seed(seed)
    model = MODELS[config.model_type](config).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name == "lm_head.weight" or "embed_tokens" in name:
                p.normal_(0, 3 / p.shape[1] ** 0.5)
            elif "norm" in name or "ln_q" in name:
                loud = "language_model" in name
                p.copy_(torch.exp((0.7 if loud else 0.2) * torch.randn(p.shape))) if name.endswith("weight") \
                    else p.normal_(0, 0.1)
            elif name.endswith("bias"):
                p.normal_(0, 0.2)
            else:
                gain = {"q_proj": 0.9, "k_proj": 0.9, "gate_proj": 0.7, "up_proj": 0.7, "o_proj": 1.5, "qkv": 1.3,
                        "proj": 1.5}.get(name.split(".")[-2], 1.0)
                p.normal_(0, gain / p[0].numel() ** 0.5)
    model.tie_weights()
    return model


def old_to_new(name):
    """visual.*, model.* (published) -> the names of the modules since transformers 4.52."""
    if name.startswith("lm_head."):
        return name
    return "model." + name if name.startswith("visual.") else "model.language_model." + name.removeprefix("model.")


def publish_config(folder):
    """As the published files have it: text keys at the top level, the vision part partial."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    text, vision = config.pop("text_config"), config["vision_config"]
    keep = ("hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers",
            "num_key_value_heads", "rms_norm_eps", "rope_theta", "vocab_size", "tie_word_embeddings", "bos_token_id",
            "eos_token_id", "hidden_act", "use_sliding_window", "max_window_layers")
    config.update({k: text[k] for k in keep if k in text})
    config["sliding_window"] = 32768
    config["rope_scaling"] = {"type": "mrope", "mrope_section": text["rope_scaling"]["mrope_section"]}
    config["torch_dtype"] = config.pop("dtype", "float32")
    for key in ("patch_size", "spatial_merge_size", "temporal_patch_size", "initializer_range", "model_type"):
        vision.pop(key, None)
    vision.update({"in_chans": 3, "spatial_patch_size": 14})
    c.write_json(path, config)


def save_model(model, tok, folder, published, dtype=torch.float32):
    """published: the names and the flat config of the published files, else those of new transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        stale.unlink()
    model.generation_config.eos_token_id = [tok.convert_tokens_to_ids(s) for s in ("<|im_end|>", "<|endoftext|>")]
    model.generation_config.pad_token_id = tok.convert_tokens_to_ids("<|endoftext|>")
    model.to(dtype).save_pretrained(folder, safe_serialization=True)
    file = folder / "model.safetensors"
    names = load_file(file)
    assert any(k.startswith("visual.") for k in names), sorted(names)[:5]
    if published:
        publish_config(folder)
    else:
        save_file({old_to_new(k): v for k, v in names.items()}, file, metadata={"format": "pt"})
    processor = Qwen2VLImageProcessor(min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    processor.save_pretrained(folder)
    if published:  # published files give the two limits only
        path = folder / "preprocessor_config.json"
        config = json.loads(path.read_text())
        config.pop("size")
        c.write_json(path, config)
    tok.chat_template = CHAT_TEMPLATE
    c.save_tokenizer(tok, folder)
    for f in folder.glob("*.json"):
        text = f.read_text(encoding="utf-8")
        f.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
    for f in folder.iterdir():
        f.chmod(0o644)


def load_model(folder):
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    model, info = MODELS[kind].from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                               output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert model.model.visual.config._attn_implementation == "eager"
    return model.eval()


def prepare(folder, images, rendered):
    tok, out = c.load_tokenizer(folder), {}
    prompt = tok(rendered)["input_ids"]
    if images:
        processor = Qwen2VLImageProcessor.from_pretrained(folder)
        assert (processor.min_pixels, processor.max_pixels) == (MIN_PIXELS, MAX_PIXELS)
        # one at a time: a batch takes the first picture's size for all
        done = [processor([i], return_tensors="pt") for i in images]
        out = {k: torch.cat([d[k] for d in done]) for k in ("pixel_values", "image_grid_thw")}
        parts = rendered.split("<|image_pad|>")
        rendered = parts[0] + "".join("<|image_pad|>" * (int(g.prod()) // 4) + p
                                      for g, p in zip(out["image_grid_thw"], parts[1:]))
    out["input_ids"] = torch.tensor([tok(rendered)["input_ids"]])
    return prompt, out


class Taps(c.Taps):
    """The tower's taps are in the order it computes in: merge blocks, and windows in Qwen2.5-VL."""

    def __init__(self, model):
        self.t, self.handles, m = {}, [], model.model
        m.visual.blocks[0].register_forward_pre_hook(lambda mod, a: self.put("vision.embeddings", a[0]))
        for i, block in enumerate(m.visual.blocks):
            self.on(block, f"vision.layer.{i}")
        self.on(m.visual, "projector.out")
        m.language_model.layers[0].register_forward_pre_hook(
            lambda mod, a, k: self.put("inputs_embeds", a[0] if a else k["hidden_states"]), with_kwargs=True)
        for i, layer in enumerate(m.language_model.layers):
            self.on(layer.self_attn.o_proj, f"text.layer.{i}.attn")
            self.on(layer.mlp.down_proj, f"text.layer.{i}.mlp")
            self.on(layer, f"text.layer.{i}")
        self.on(m.language_model.norm, "text.norm")


def gradients(model, inputs):
    """Mean |g| at every sub-block's output, over the last ANSWER tokens (the loss is theirs) and over picture tokens."""
    kept, handles = [], []
    for layer in model.model.language_model.layers:
        for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
            handles.append(module.register_forward_hook(lambda mod, a, out: (out.retain_grad(), kept.append(out))[0]))
    ids = inputs["input_ids"][0]
    z = model(**inputs, use_cache=False).logits[0]
    torch.nn.functional.cross_entropy(z[-ANSWER - 1:-1], ids[-ANSWER:]).backward()
    for h in handles:
        h.remove()
    vision = ids == model.config.image_token_id
    mean = lambda g: float(g.abs().double().mean())
    return [[mean(t.grad[0, -ANSWER:]), mean(t.grad[0, vision])] for t in kept]


def run_case(case, model_dir, image_files, messages, keep=lambda name: True):
    folder = GOLDEN / case
    folder.mkdir(parents=True, exist_ok=True)
    model_path = (folder / model_dir).resolve()
    images = [Image.open(folder / f).convert("RGB") for f in image_files]
    rendered = c.load_tokenizer(model_path).apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt, inputs = prepare(model_path, images, rendered)
    model = load_model(model_path)
    taps = Taps(model)
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits[0]
        seen = dict(taps.t)
        positions, delta = model.model.get_rope_index(inputs["input_ids"], inputs.get("image_grid_thw"))
        model.generation_config.eos_token_id = None  # 64 tokens whatever they are
        model.model.rope_deltas = None
        out = model.generate(**inputs, max_new_tokens=GREEDY, do_sample=False, output_scores=True,
                             return_dict_in_generate=True)
    extra = {"gradients": gradients(model, inputs)} if images and len(logits) <= 128 else {}
    best = torch.cat(out.scores).topk(2).values
    gap = float((best[:, 0] - best[:, 1]).min() / logits.std())
    assert gap > 2e-3, f"{case}: a greedy choice hangs on {gap} of the logits' deviation, take another seed"
    t = {"input_ids": inputs["input_ids"][0], "prompt_ids": torch.tensor(prompt),
         "positions": positions[:, 0].T.contiguous(), "greedy": out.sequences[0, inputs["input_ids"].shape[1]:]}
    assert len(t["greedy"]) == GREEDY
    grids = inputs["image_grid_thw"].tolist() if images else []
    if images:
        t["pixel_values"] = inputs["pixel_values"]
        mask = t["input_ids"] == model.config.image_token_id
        assert torch.equal(seen["inputs_embeds"][mask], seen["projector.out"])
    t.update(seen)
    t["logits"] = logits
    t = {k: v for k, v in t.items() if keep(k)}
    c.save_tensors(folder / "taps.safetensors", t)
    c.write_json(folder / "case.json", {
        "model": model_dir, "images": image_files, "messages": messages, "add_generation_prompt": True,
        "rendered": rendered, "grids": grids, "positions": len(logits), "rope_delta": int(delta),
        "taps": {k: [str(v.dtype).removeprefix("torch.")] + list(v.shape) for k, v in t.items()}} | extra)
    print(case, "positions", len(logits), "grids", grids, "delta", int(delta), "smallest gap", round(gap, 4))
    print("  std", {k: round(float(v.std()), 2) for k, v in t.items() if v.is_floating_point() and k != "pixel_values"})


def pictures(folder):
    """small, large (above the limit of pixels), long, and two: noise only where it costs little."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"small": (75, 50, 31), "large": (437, 295, 32), "long": (1205, 23, 33), "one": (90, 61, 34),
             "two": (48, 117, 35)}
    for name, (w, h, seed) in sizes.items():
        image = c.make_picture(w, h, seed)
        if name == "large":
            image = c.make_picture(w // 4 + 1, h // 4 + 1, seed).resize((w, h), Image.NEAREST)
        image.save(folder / f"{name}.png", optimize=True)


def sizes(path):
    """What smart_resize makes of sizes: h w factor min max -> H W, or 0 0 where it refuses."""
    rows = []
    limits = [(28, 3136, 12845056), (28, 3136, 1003520), (28, 200704, 1003520), (32, 4096, 16777216), (28, 784, 784)]
    picked = [(384, 384), (336, 336), (480, 640), (899, 1024), (1000, 1000), (1080, 1920), (3024, 4032), (100, 2000),
              (2000, 100), (42, 70), (28, 28), (14, 14), (1, 1), (1, 200), (1, 201), (201, 1), (200, 1), (10, 2000),
              (42, 42), (70, 98), (13, 15), (3000, 4000), (8000, 40), (20000, 101), (7, 1393), (5, 1000), (5, 1001)]
    torch.manual_seed(7)
    picked += [tuple(p) for p in torch.exp(torch.rand(150, 2) * 7.5 + 1).int().tolist()]
    for h, w in picked:
        for factor, lo, hi in limits:
            try:
                out = smart_resize(h, w, factor, lo, hi)
            except ValueError:
                out = (0, 0)
            rows.append(" ".join(str(v) for v in (h, w, factor, lo, hi, *out)))
    path.write_text("\n".join(rows) + "\n")


def main():
    pictures(GOLDEN / "qwen2_vl" / "pictures")
    sizes(GOLDEN / "anyres" / "smart_resize.txt")
    tok = c.make_tokenizer(specials=SPECIALS)
    ask = lambda *parts: [{"role": "user", "content": [text_part(p) if isinstance(p, str) else p for p in parts]}]
    no_layers = lambda name: not name.startswith("text.layer") and name != "pixel_values"
    no_pixels = lambda name: name != "pixel_values"
    # seeds with which no greedy choice hangs on rounding
    for kind, seed, other in (("qwen2_vl", 141, 102), ("qwen2_5_vl", 311, 202)):
        # the published names, own head; and the new ones, tied, in bf16
        save_model(make_model(make_config(tok, kind, tied=False), seed), tok, GOLDEN / kind / "small" / "model", True)
        save_model(make_model(make_config(tok, kind, tied=True, layers=2, kv_heads=4), other), tok,
                   GOLDEN / kind / "two" / "model", False, dtype=torch.bfloat16)
        first = "../small/model"
        picture = lambda name: f"../../qwen2_vl/pictures/{name}.png"
        run_case(f"{kind}/small", "model", [picture("small")], ask(IMAGE_PART, "What is shown in this image?"))
        run_case(f"{kind}/large", first, [picture("large")], ask(IMAGE_PART, "How many shapes are there?"), no_layers)
        run_case(f"{kind}/long", first, [picture("long")], ask(IMAGE_PART, "Describe the picture in one sentence."), no_pixels)
        run_case(f"{kind}/two", "model", [picture("one"), picture("two")],
                 ask("Look: ", IMAGE_PART, IMAGE_PART, "What is the difference between the two pictures?"), no_pixels)
        run_case(f"{kind}/text", first, [], [
            {"role": "system", "content": [text_part("You are a helpful assistant.")]},
            {"role": "user", "content": [text_part("Tell me a short story about a cat and a dog.")]}])


if __name__ == "__main__":
    main()
