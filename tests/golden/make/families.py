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


def never_say(model, token):
    """A picture's placeholder is not to be generated: its logit is 0, far below the best."""
    head = model.language_model.output if hasattr(model, "language_model") and hasattr(model.language_model, "output") else model.lm_head
    with torch.no_grad():
        head.weight[token] = 0
    return model


def save(name, model, tok, rename=lambda n: n, config=None, processor=None, drop=()):
    folder = ROOT / name / "model"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        stale.unlink()
    state = dict(model.state_dict())
    if getattr(model, "_tied_weights_keys", None) and model.config.get_text_config(decoder=True).tie_word_embeddings:
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


# ---------------------------------------------------------------- vision-language models

SIZES = {"small": [(40, 30)], "large": [(230, 170)], "extreme": [(260, 9)], "two": [(90, 60), (50, 80)], "text": []}
QUESTIONS = {"small": "What is shown in this image?", "large": "How many shapes are there?", "extreme": "Which colour is it?",
             "two": "What is the difference between the two pictures?", "text": "Tell me a short story."}


def picture(w, h):
    """A file shared by the families, made once."""
    file = ROOT / "pictures" / f"{w}x{h}.png"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        c.make_picture(w, h, 100 * w + h).save(file, optimize=True)
        file.chmod(0o644)
    return f"pictures/{w}x{h}.png", Image.open(file).convert("RGB")


def after_embeds(model, embeds, n):
    """Generation as with a cache: pictures are looked at once, whatever tokens come later are text."""
    def forward(ids):
        more = model.get_input_embeddings()(ids[:, n:])
        return model.lm_head(model.model.language_model(inputs_embeds=torch.cat([embeds[None], more], 1)).last_hidden_state[0, -1])
    return forward


def vision_case(name, case, tok, model, hook, process, layers, embeds_of=None, features_of=None,
                attn=lambda l: l.self_attn.o_proj, mlp=lambda l: l.mlp.down_proj, norm=None, context=None, packed=False, folder=None):
    """process(images) -> (model inputs, what replaces each picture's place in the text). packed: features are cropped and have
    newlines behind the projector. folder: the checkpoint, if it is not the family's own."""
    files, images = zip(*[picture(*s) for s in SIZES[case]]) if SIZES[case] else ((), ())
    inputs, expansions = process(list(images)) if images else ({}, [])
    head, tail = "<|im_start|>user\n", QUESTIONS[case] + "<|im_end|>\n<|im_start|>assistant\n"
    places = ["\n"] * len(images)
    ids_of = lambda text: tok(text)["input_ids"] if text else []
    prompt = ids_of(head)
    full = head
    for i, e in enumerate(expansions):
        after = "\n" + (tail if i == len(images) - 1 else "")
        prompt += [SLOT] + ids_of(after)
        full += e + after
    if not images:
        prompt, full = ids_of(head + tail), head + tail
    ids = ids_of(full)
    t = Taps()
    if images:
        hook(t)
    t.decoder(layers, norm, attn, mlp)
    logits_of = lambda x: (lambda o: getattr(o, "logits", o))(model(x, **inputs))[0]
    with torch.no_grad():
        logits = logits_of(torch.tensor([ids]))
        t.close()
        if images:
            where = torch.tensor(ids) == context
            t.t["image_features"] = t.t["inputs_embeds"][where]
            assert packed or int(where.sum()) == t.t["projector.out"].shape[:-1].numel(), t.t["projector.out"].shape
        forward = after_embeds(model, t.t["inputs_embeds"], len(ids)) if packed else lambda x: logits_of(x)[-1]
        tokens, gap = greedy(forward, ids)
    keep = t.t if case == "small" else {k: v for k, v in t.t.items() if ".layer." not in k and k != "vision.embeddings"}
    extra = {}
    if case in ("small", "text"):
        extra["gradients"] = gradients(model, logits_of, layers, ids, attn, mlp)
    if folder:
        extra["model"] = folder
    write_case(name, case, prompt, keep, logits, tokens, gap, images=files, extra=extra, ids=ids)


def tower_taps(t, embeddings, layers):
    t.out(embeddings, "vision.embeddings", lambda v: v)
    for i, layer in enumerate(layers):
        t.out(layer, f"vision.layer.{i}")


def hf_name_to_old(name):
    """The names of published files: language_model.model.*, vision_tower.*, ..."""
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    name = name.removeprefix("model.")
    return name.replace("language_model.", "language_model.model.", 1) if name.startswith("language_model.") else name


def make_llava():
    from transformers import CLIPImageProcessor, CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration
    tok = tokenizer()
    image = tok.convert_tokens_to_ids("<image>")
    config = eager(LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=32, intermediate_size=60, num_hidden_layers=3, num_attention_heads=4,
                                       image_size=56, patch_size=14, projection_dim=16),
        text_config=LlamaConfig(**TINY | dict(tie_word_embeddings=False)), image_token_index=image, image_seq_length=16))
    model = never_say(randomise(LlavaForConditionalGeneration(config), 41), image)
    save("llava", model, tok, rename=hf_name_to_old, config=json.loads(config.to_json_string(use_diff=True)), processor=dict(
        size=dict(shortest_edge=56), crop_size=dict(height=56, width=56), do_center_crop=True, resample=3,
        image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711]))
    file = ROOT / "llava/model/model.safetensors"  # as old files have it
    save_file(load_file(file) | {"vision_tower.vision_model.embeddings.position_ids": torch.arange(17)[None]}, file,
              metadata={"format": "pt"})
    processor = CLIPImageProcessor(size=dict(shortest_edge=56), crop_size=dict(height=56, width=56))
    m, tower = model.model, model.model.vision_tower.vision_model

    def hook(t):
        tower_taps(t, tower.embeddings, list(tower.encoder.layers)[:-1])
        t.into(m.multi_modal_projector, "vision.features")
        t.out(m.multi_modal_projector, "projector.out")

    process = lambda images: (dict(pixel_values=processor(images, return_tensors="pt")["pixel_values"]),
                              ["<image>" * 16] * len(images))
    for case in SIZES:
        vision_case("llava", case, tok, model, hook, process, m.language_model.layers, norm=m.language_model.norm, context=image)


def make_onevision():
    """The five pictures and 64 tokens for the checkpoint of make_models.py's case `tiled`."""
    from transformers import LlavaOnevisionImageProcessor
    path = c.GOLDEN / "tiled" / "model"
    tok, model = c.load_tokenizer(path), c.load_model(path)
    ip, vision = LlavaOnevisionImageProcessor.from_pretrained(path), model.config.vision_config
    side = vision.image_size // vision.patch_size
    m, tower = model.model, model.model.vision_tower.vision_model

    def hook(t):
        tower_taps(t, tower.embeddings, tower.encoder.layers)
        t.into(m.multi_modal_projector, "vision.features")
        t.out(m.multi_modal_projector, "projector.out")

    def process(images):
        px = ip([images], return_tensors="pt")
        text = c.expand(ip, side * side, model.config.vision_aspect_ratio, "|".join(["<image>"] * len(images)),
                        [(i.height, i.width) for i in images])
        return dict(pixel_values=px["pixel_values"], image_sizes=px["image_sizes"], batch_num_images=px["batch_num_images"]), text.split("|")

    for case in SIZES:
        vision_case("onevision", case, tok, model, hook, process, m.language_model.layers, norm=m.language_model.norm,
                    context=model.config.image_token_index, packed=True, folder="../tiled/model")


ROWS = [f"<row_{r}_col_{k}>" for r in range(1, 5) for k in range(1, 5)]


def use_trained_positions(embeddings):
    """A full view has its patches at positions 0, 1, 2, ...: what transformers up to 4.54, in which the published models were
    trained, made of it. 4.55 to 4.57 shift all but the first row and column by one (their issue 41190)."""
    def forward(pixel_values, patch_attention_mask):
        x = embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        return x + embeddings.position_embedding(torch.arange(x.shape[1]))
    embeddings.forward = forward


def make_rows(name, config_class, model_class, vision_class, processor_class, image, patch, scale, edge, seed, cases):
    from transformers.models.idefics3.processing_idefics3 import get_image_prompt_string
    tok = tokenizer(["<fake_token_around_image>", "<global-img>"] + ROWS)
    context = tok.convert_tokens_to_ids("<image>")
    tokens = (image // patch // scale) ** 2
    vision = dict(hidden_size=32, intermediate_size=68, num_hidden_layers=2, num_attention_heads=4, image_size=image,
                  patch_size=patch)
    config = eager(config_class(vision_config=vision, scale_factor=scale, image_token_id=context, tie_word_embeddings=False,
                                text_config=LlamaConfig(**TINY | dict(vocab_size=432, tie_word_embeddings=False)).to_dict(),
                                pad_token_id=None))
    model = never_say(randomise(model_class(config), seed), context)
    size = dict(size=dict(longest_edge=edge), max_image_size=dict(longest_edge=image))
    save(name, model, tok, config=json.loads(config.to_json_string(use_diff=True)),
         processor=size | dict(do_image_splitting=True, resample=1, image_mean=[0.5] * 3, image_std=[0.5] * 3))
    m, tower = model.model, model.model.vision_model
    use_trained_positions(tower.embeddings)
    processor = processor_class(**size)

    def hook(t):
        tower_taps(t, tower.embeddings, tower.encoder.layers)
        t.out(tower.post_layernorm, "vision.features")
        t.out(m.connector, "projector.out")

    def process(images):
        out = processor([images], return_row_col_info=True, return_tensors="pt")
        strings = [get_image_prompt_string(r, k, tokens, "<fake_token_around_image>", "<image>", "<global-img>")
                   for r, k in zip(out["rows"][0], out["cols"][0])]
        return dict(pixel_values=out["pixel_values"]), strings

    for case in cases:
        vision_case(name, case, tok, model, hook, process, m.text_model.layers, norm=m.text_model.norm, context=context)


def make_idefics3():
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessor
    make_rows("idefics3", Idefics3Config, Idefics3ForConditionalGeneration, None, Idefics3ImageProcessor, 28, 7, 2, 112, 42, SIZES)


def make_smolvlm():
    """The same under its other name; a whole view becomes one token."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration
    from transformers.models.smolvlm.image_processing_smolvlm import SmolVLMImageProcessor
    make_rows("smolvlm", SmolVLMConfig, SmolVLMForConditionalGeneration, None, SmolVLMImageProcessor, 32, 8, 4, 96, 43, SIZES)


INTERN = ["<img>", "</img>", "<IMG_CONTEXT>"]


def intern_process(processor, tokens):
    def process(images):
        out = processor(images, crop_to_patches=True, min_patches=1, max_patches=12, return_tensors="pt")
        strings = ["<img>" + "<IMG_CONTEXT>" * (tokens * int(n)) + "</img>" for n in out["num_patches"]]
        return dict(pixel_values=out["pixel_values"]), strings
    return process


IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])


def intern_processor():
    from transformers import GotOcr2ImageProcessor
    return GotOcr2ImageProcessor(size=dict(height=28, width=28), resample=3, **IMAGENET)


def to_chat_layout(state):
    """transformers' names and three projections -> the authors' names and one tensor for q, k and v."""
    out = {}
    for k, v in state.items():
        if ".q_proj." in k and "vision_tower" in k:
            v = torch.cat([v, state[k.replace("q_proj", "k_proj")], state[k.replace("q_proj", "v_proj")]])
            k = k.replace("attention.q_proj", "attn.qkv")
        elif "vision_tower" in k and ("k_proj" in k or "v_proj" in k):
            continue
        k = k.replace("model.vision_tower.", "vision_model.").replace("encoder.layer.", "encoder.layers.")
        for a, b in (("attention.projection_layer", "attn.proj"), ("layernorm_before", "norm1"), ("layernorm_after", "norm2"),
                     ("lambda_1", "ls1"), ("lambda_2", "ls2"), ("cls_token", "class_embedding"),
                     ("position_embeddings", "position_embedding"), ("patch_embeddings.projection", "patch_embedding"),
                     ("model.multi_modal_projector.layer_norm", "mlp1.0"), ("model.multi_modal_projector.linear_1", "mlp1.1"),
                     ("model.multi_modal_projector.linear_2", "mlp1.3"), ("model.language_model.", "language_model.model."),
                     ("lm_head.", "language_model.lm_head.")):
            k = k.replace(a, b)
        out[k] = v
    return out


def make_internvl():
    """transformers' layout with Qwen2; then the same weights in the authors' layout, for the same cases."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig
    tok = tokenizer(INTERN)
    context = tok.convert_tokens_to_ids("<IMG_CONTEXT>")
    vision = dict(hidden_size=32, intermediate_size=60, num_hidden_layers=2, num_attention_heads=4, image_size=[28, 28],
                  patch_size=[7, 7], attention_bias=True)
    text = TINY | dict(vocab_size=408, tie_word_embeddings=False)
    config = eager(InternVLConfig(vision_config=vision, text_config=Qwen2Config(**text).to_dict(), image_token_id=context,
                                  image_seq_length=4))
    config.vision_config._attn_implementation = config.text_config._attn_implementation = "eager"
    model = never_say(randomise(InternVLForConditionalGeneration(config), 44), context)
    save("internvl", model, tok, config=json.loads(config.to_json_string(use_diff=True)),
         processor=dict(size=dict(height=28, width=28), resample=3, max_patches=12, min_patches=1, **IMAGENET))
    chat = ROOT / "internvl_chat" / "model"
    chat.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in to_chat_layout(load_file(ROOT / "internvl/model/model.safetensors")).items()},
              chat / "model.safetensors", metadata={"format": "pt"})
    c.write_json(chat / "config.json", dict(
        model_type="internvl_chat", architectures=["InternVLChatModel"], downsample_ratio=0.5, dynamic_image_size=True,
        force_image_size=28, max_dynamic_patch=12, min_dynamic_patch=1, ps_version="v2", select_layer=-1, use_thumbnail=True,
        template="internvl2_5", torch_dtype="float16",
        llm_config=text | dict(model_type="qwen2", architectures=["Qwen2ForCausalLM"]),
        vision_config=dict(model_type="intern_vit_6b", hidden_size=32, intermediate_size=60, num_hidden_layers=2,
                           num_attention_heads=4, image_size=28, patch_size=7, qkv_bias=True, qk_normalization=False,
                           norm_type="layer_norm", hidden_act="gelu", layer_norm_eps=1e-6)))
    c.write_json(chat / "preprocessor_config.json", dict(crop_size=28, size=28, do_center_crop=True, resample=3, **IMAGENET))
    for f in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (chat / f).write_bytes((ROOT / "internvl/model" / f).read_bytes())
    for f in chat.iterdir():
        f.chmod(0o644)
    m, tower = model.model, model.model.vision_tower

    def hook(t):
        tower_taps(t, tower.embeddings, tower.encoder.layer)
        t.out(tower.encoder.layer[-1], "vision.features", lambda v: v[:, 1:])
        t.out(m.multi_modal_projector, "projector.out")

    for case in SIZES:
        vision_case("internvl", case, tok, model, hook, intern_process(intern_processor(), 4), m.language_model.layers,
                    norm=m.language_model.norm, context=context)


def make_internvl_intern():
    """The authors' layout with InternLM2, RMSNorm, norms of q and k, no q, k, v bias, the first pixel shuffle."""
    import internvit
    tok = tokenizer(INTERN)
    context = tok.convert_tokens_to_ids("<IMG_CONTEXT>")
    text = internlm2.Config(vocab=408, hidden=48, layers=2, heads=4, kv_heads=2, inter=80, theta=1e6, eps=1e-5)
    model = internvit.Chat(internvit.Config(hidden=32, layers=2, heads=4, inter=60, image=28, patch=7, eps=1e-6, transposed=True),
                           text, context)
    never_say(randomise(model, 45), context)
    save("internvl_intern", model, tok, config=dict(
        model_type="internvl_chat", architectures=["InternVLChatModel"], downsample_ratio=0.5, dynamic_image_size=True,
        force_image_size=28, max_dynamic_patch=12, min_dynamic_patch=1, ps_version="v1", select_layer=-1, use_thumbnail=True,
        template="internlm2-chat",
        llm_config=dict(model_type="internlm2", architectures=["InternLM2ForCausalLM"], bias=False, hidden_act="silu",
                        hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
                        num_key_value_heads=2, vocab_size=408, max_position_embeddings=512, rms_norm_eps=1e-5,
                        rope_theta=1000000, rope_scaling=dict(type="dynamic", factor=2.0), tie_word_embeddings=False),
        vision_config=dict(model_type="intern_vit_6b", hidden_size=32, intermediate_size=60, num_hidden_layers=2,
                           num_attention_heads=4, image_size=28, patch_size=7, qkv_bias=False, qk_normalization=True,
                           norm_type="rms_norm", hidden_act="gelu", layer_norm_eps=1e-6)),
         processor=dict(crop_size=28, size=28, do_center_crop=True, resample=3, **IMAGENET))
    v, l = model.vision_model, model.language_model.model

    def hook(t):
        tower_taps(t, v.embeddings, v.encoder.layers)
        t.out(v, "vision.features")
        t.out(model.mlp1, "projector.out")

    for case in SIZES:
        vision_case("internvl_intern", case, tok, model, hook, intern_process(intern_processor(), 4), l.layers, norm=l.norm,
                    attn=lambda x: x.attention.wo, mlp=lambda x: x.feed_forward.w2, context=context)


def main():
    wanted = sys.argv[1:]
    for key, make in list(globals().items()):
        if key.startswith("make_") and (not wanted or key[5:] in wanted):
            make()


if __name__ == "__main__":
    main()
