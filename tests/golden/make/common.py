"""Shared by the golden-data generators: the tiny tokenizer, the tiny models, pictures, prompts and the taps.

transformers and PyTorch are oracles here; nothing in this folder runs when Ballast is built, tested or used.
"""
import copy
import json
import pathlib

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, LlavaOnevisionImageProcessor,
                          Qwen2Config, Qwen2TokenizerFast, SiglipVisionConfig)
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

GOLDEN = pathlib.Path(__file__).resolve().parent.parent
PROMPT, ANSWER, VISION = 0, 1, 2

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]

# The pre-tokenizer pattern of Qwen2.
QWEN2_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                 r"|\s*[\r\n]+|\s+(?!\S)|\s+")

# ChatML as LLaVA-OneVision uses it: in a turn all images stand first, then the text.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")

CORPUS = """What is shown in this image? Describe the picture in one sentence. There is a red circle on the left and a
blue square on the right. How many shapes are there in the image? There are three shapes. Which colour is the small
triangle? The small triangle is green. You are a helpful assistant. user assistant system What is the difference between
the two pictures? The first picture shows a yellow square, the second picture shows nothing but stripes. Tell me a short
story about a cat and a dog who looked at the sea. Read the number 1234 and the word hello. It's what I've seen, we'll
see; they're here and I'd say so. Wie viele Formen sind zu sehen? Größe, naïve café, déjà vu. 你好，世界。这张图片里有什么？
Кошка и собака. αβγ 日本語のテキスト。 The quick brown fox jumps over the lazy dog while the image is read from left to right."""


def make_tokenizer(vocab_size=380, specials=SPECIALS):
    """A byte-level BPE in the manner of Qwen2, trained on the paragraph above."""
    tok = Tokenizer(models.BPE(unk_token=None, fuse_unk=False, byte_fallback=False))
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.train_from_iterator([CORPUS], trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in specials])
    fast = Qwen2TokenizerFast(tokenizer_object=tok, unk_token=None, bos_token=None, eos_token="<|im_end|>",
                              pad_token="<|endoftext|>", model_max_length=2048, clean_up_tokenization_spaces=False,
                              additional_special_tokens=specials[1:])
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save_tokenizer(fast, folder, old_style=False):
    """tokenizer.json, tokenizer_config.json and the chat template in its new (.jinja) or old (.json) place."""
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    for extra in ("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json"):
        (folder / extra).unlink(missing_ok=True)
    if old_style:
        (folder / "chat_template.jinja").unlink()
        write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})


def load_tokenizer(folder):
    fast = Qwen2TokenizerFast.from_pretrained(folder)
    if not fast.chat_template:
        old = pathlib.Path(folder) / "chat_template.json"
        fast.chat_template = json.loads(old.read_text())["chat_template"] if old.exists() else CHAT_TEMPLATE
    return fast


def write_json(path, value):
    """One line per top-level key (or per element of a top-level list)."""
    dump = lambda v: json.dumps(v, ensure_ascii=False)
    if isinstance(value, dict):
        text = "{\n" + ",\n".join(f" {dump(k)}: {dump(v)}" for k, v in value.items()) + "\n}\n"
    else:
        text = "[\n" + ",\n".join(" " + dump(v) for v in value) + "\n]\n"
    path.write_text(text, encoding="utf-8")


# ---------------------------------------------------------------- models

GRID = [[56 * r, 56 * c] for r in range(1, 5) for c in range(1, 5)]


def make_config(tok, kv_heads, tied, text_layers=3, vision_layers=3, hidden=64, ffn=152):
    return LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(hidden_size=48, intermediate_size=100, num_hidden_layers=vision_layers,
                                         num_attention_heads=4, image_size=56, patch_size=14,
                                         hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6, vision_use_head=False),
        text_config=Qwen2Config(vocab_size=400, hidden_size=hidden, intermediate_size=ffn,
                                num_hidden_layers=text_layers, num_attention_heads=4, num_key_value_heads=kv_heads,
                                max_position_embeddings=2048, rope_theta=1e6, rms_norm_eps=1e-6,
                                tie_word_embeddings=tied, bos_token_id=None,
                                eos_token_id=tok.convert_tokens_to_ids("<|im_end|>")),
        image_token_index=tok.convert_tokens_to_ids("<image>"), video_token_index=tok.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=GRID, vision_aspect_ratio="anyres_max_9", tie_word_embeddings=tied)


def make_model(config, seed, exact=False):
    """Random weights, every bias and norm weight included, scaled so that activations are O(1) and the head decides.

    exact: the decoder blocks' parameters are representable in bf16 and in f16, so that it makes no difference whether an
    emulation of those types rounds the parameters first.
    """
    torch.manual_seed(seed)
    model = LlavaOnevisionForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            decoder_norm = "language_model" in name and "norm" in name
            if name == "lm_head.weight":
                p.normal_(0, 3 / p.shape[1] ** 0.5)
            elif "embed_tokens" in name:
                p.normal_(0, 3 / p.shape[1] ** 0.5)
            elif "image_newline" in name or "position_embedding" in name:
                p.normal_(0, 0.5)
            elif decoder_norm:  # a few loud channels, as trained models have: this is what channel scales are for
                p.copy_(torch.exp(0.7 * torch.randn(p.shape)))
            elif "norm" in name:
                p.copy_(1 + 0.2 * torch.randn(p.shape)) if name.endswith("weight") else p.normal_(0, 0.1)
            elif name.endswith("bias"):
                p.normal_(0, 0.2)
            else:
                fan_in = p[0].numel()
                gain = {"q_proj": 1.3, "k_proj": 1.3, "o_proj": 1.5, "out_proj": 1.5}.get(name.split(".")[-2], 1.0)
                if "language_model" in name and any(s in name for s in ("q_proj", "k_proj", "gate_proj", "up_proj")):
                    gain *= 0.7  # their input has been through a loud norm
                p.normal_(0, gain / fan_in ** 0.5)
            if exact and "language_model.layers" in name:
                p.copy_(p.to(torch.bfloat16).float())
                p[p.abs() < 2 ** -14] = 0
    model.tie_weights()
    return model


def old_to_new(name):
    """Old tensor names (vision_tower.*, language_model.model.*) -> the names of the modules since transformers 4.52.

    save_pretrained of 4.52 to 4.57 still writes the OLD names: it undoes the renaming that it does when it loads.
    """
    if name == "language_model.lm_head.weight":
        return "lm_head.weight"
    if name.startswith("language_model.model."):
        return "model.language_model." + name[len("language_model.model."):]
    return "model." + name


def save_model(model, tok, folder, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), old_names=False, dtype=torch.float32,
               shard="5GB"):
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        stale.unlink()
    if dtype != torch.float32:
        model = copy.deepcopy(model).to(dtype)
    model.generation_config.eos_token_id = tok.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = tok.convert_tokens_to_ids("<|endoftext|>")
    model.config.dtype = dtype
    model.save_pretrained(folder, max_shard_size=shard, safe_serialization=True)
    file = folder / "model.safetensors"
    if old_names:
        config = json.loads((folder / "config.json").read_text())
        config["torch_dtype"] = config.pop("dtype")
        write_json(folder / "config.json", config)
    elif file.exists():
        save_file({old_to_new(k): v for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    LlavaOnevisionImageProcessor(size={"height": 56, "width": 56}, image_grid_pinpoints=GRID, image_mean=list(mean),
                                 image_std=list(std)).save_pretrained(folder)
    save_tokenizer(tok, folder, old_style=old_names)
    for f in folder.glob("*.json"):
        text = f.read_text(encoding="utf-8")
        f.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
    for f in folder.iterdir():
        f.chmod(0o644)


def load_model(folder, dtype=torch.float32):
    """The oracle, always with eager attention.

    transformers 4.56 to 4.57 hand LLaVA-OneVision the vision features AFTER post_layernorm (their issue 40964, mended
    by their pull request 40994). Published checkpoints are made for the features before it, as every earlier and later
    version computes them, so that norm is taken out here; its weights stay in the file, unused.
    """
    model, info = LlavaOnevisionForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    model.model.vision_tower.vision_model.post_layernorm = torch.nn.Identity()
    return model.eval()


# ---------------------------------------------------------------- pictures and prompts

def make_picture(width, height, seed):
    """A gradient with a few shapes and some noise, as an RGB image."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    a = np.stack([(x * rng.uniform(1, 3) + y * rng.uniform(0, 2) + rng.uniform(0, 255)) % 256 for _ in range(3)], -1)
    image = Image.fromarray(a.astype(np.uint8), "RGB")
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        cx, cy, r = rng.integers(0, width), rng.integers(0, height), int(rng.integers(6, max(8, min(width, height) // 3)))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        (draw.ellipse if rng.integers(2) else draw.rectangle)([int(cx - r), int(cy - r), int(cx + r), int(cy + r)], fill=colour)
    a = np.asarray(image).astype(np.int16) + rng.integers(-6, 7, (height, width, 3))
    return Image.fromarray(a.clip(0, 255).astype(np.uint8), "RGB")


def text_part(s):
    return {"type": "text", "text": s}


IMAGE_PART = {"type": "image"}


def expand(image_processor, vision_tokens, aspect_ratio, rendered, sizes):
    """`<image>` -> N copies, by transformers' own rule (`sizes` is a list of (height, width), all of one sample)."""
    p = LlavaOnevisionProcessor.__new__(LlavaOnevisionProcessor)  # its constructor insists on a video processor
    p.image_processor, p.num_image_tokens = image_processor, vision_tokens
    p.vision_feature_select_strategy, p.vision_aspect_ratio = "full", aspect_ratio
    side = image_processor.size["height"]
    return p._expand_image_tokens([rendered], iter(sizes), side, side, "<image>", iter([len(sizes)]))[0][0]


def prepare(folder, images, rendered):
    """Model inputs for one sample. Images go in as ONE nested list: a flat list of two would be two samples."""
    tok = load_tokenizer(folder)
    out = {}
    if images:
        ip = LlavaOnevisionImageProcessor.from_pretrained(folder)
        config = json.loads((pathlib.Path(folder) / "config.json").read_text())
        vc, aspect = config["vision_config"], config.get("vision_aspect_ratio", "anyres_max_9")
        px = ip([images], return_tensors="pt")
        rendered = expand(ip, (vc["image_size"] // vc["patch_size"]) ** 2, aspect, rendered, [(i.height, i.width) for i in images])
        out = dict(pixel_values=px["pixel_values"], image_sizes=px["image_sizes"], batch_num_images=px["batch_num_images"])
    out["input_ids"] = torch.tensor([tok(rendered)["input_ids"]])
    return out


# ---------------------------------------------------------------- taps

class Taps:
    """Records what the modules put out during one forward pass."""

    def __init__(self, model):
        self.t, m = {}, model.model
        self.handles = []
        tower = m.vision_tower.vision_model
        self.on(tower.embeddings, "vision.embeddings")
        for i, layer in enumerate(tower.encoder.layers):
            self.on(layer, f"vision.layer.{i}")
        m.multi_modal_projector.register_forward_pre_hook(lambda mod, a: self.put("vision.features", a[0]))
        self.on(m.multi_modal_projector, "projector.out")
        self.handles.append(m.language_model.layers[0].register_forward_pre_hook(
            lambda mod, a, k: self.put("inputs_embeds", a[0] if a else k["hidden_states"]), with_kwargs=True))
        for i, layer in enumerate(m.language_model.layers):
            self.on(layer.self_attn.o_proj, f"text.layer.{i}.attn")
            self.on(layer.mlp.down_proj, f"text.layer.{i}.mlp")
            self.on(layer, f"text.layer.{i}")
        self.on(m.language_model.norm, "text.norm")

    def put(self, name, value):
        value = value[0] if isinstance(value, tuple) else value
        if not name.startswith(("vision.", "projector.")):
            value = value[0]  # no batch dimension
        self.t[name] = value.detach().float().clone().contiguous()

    def on(self, module, name):
        self.handles.append(module.register_forward_hook(lambda mod, a, out: self.put(name, out)))


def save_tensors(path, tensors):
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    path.chmod(0o644)  # safetensors makes it private
