"""The architecture, and a batched forward pass for pictures of one size."""
import math

import torch
from transformers import (AutoProcessor, LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration,
                          LlavaOnevisionImageProcessor, LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor,
                          Qwen2Config, Qwen2TokenizerFast, SiglipVisionConfig)

from views import PATCH, PINPOINTS, SIDE, VIEW

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
VOCAB = 4096
CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'video' %}{{ '<video>\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def new_model(tokenizer):
    token = tokenizer.convert_tokens_to_ids
    text = Qwen2Config(
        vocab_size=VOCAB, hidden_size=256, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=704, max_position_embeddings=4096, rope_theta=10000.0, rms_norm_eps=1e-6,
        tie_word_embeddings=True, use_sliding_window=False, bos_token_id=None,
        eos_token_id=token("<|im_end|>"), pad_token_id=token("<|endoftext|>"))
    vision = SiglipVisionConfig(
        image_size=VIEW, patch_size=PATCH, hidden_size=192, num_hidden_layers=5, num_attention_heads=3,
        intermediate_size=576, hidden_act="gelu_pytorch_tanh", vision_use_head=False)
    config = LlavaOnevisionConfig(
        vision_config=vision, text_config=text, image_token_index=token("<image>"), video_token_index=token("<video>"),
        projector_hidden_act="gelu", vision_feature_layer=-1, vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9", image_grid_pinpoints=PINPOINTS, tie_word_embeddings=True,
        pad_token_id=token("<|endoftext|>"), eos_token_id=token("<|im_end|>"))
    model = LlavaOnevisionForConditionalGeneration(config)
    model.generation_config.eos_token_id = token("<|im_end|>")
    model.generation_config.pad_token_id = token("<|endoftext|>")
    model.generation_config.bos_token_id = None
    return model


def new_processor(tokenizer):
    size = {"height": VIEW, "width": VIEW}
    half = [0.5, 0.5, 0.5]
    image = LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=PINPOINTS, image_mean=half, image_std=half)
    video = LlavaOnevisionVideoProcessor(size=size, image_mean=half, image_std=half)
    return LlavaOnevisionProcessor(image, tokenizer, video, num_image_tokens=SIDE * SIDE,
                                   vision_feature_select_strategy="full", chat_template=CHAT,
                                   vision_aspect_ratio="anyres_max_9")


def view_features(model, views):
    """Projected features [pictures, views, 16, hidden] of uint8 views [pictures, views, 64, 64, 3]."""
    b, v = views.shape[:2]
    pixels = views.flatten(0, 1).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)
    tower = model.model.vision_tower.vision_model
    hidden = tower.encoder(tower.embeddings(pixels)).last_hidden_state  # before post_layernorm
    return model.model.multi_modal_projector(hidden).unflatten(0, (b, v))


def pack(model, features, lay):
    """What pack_image_features does to each picture, for a batch of one layout: [pictures, tokens, hidden]."""
    b, _, _, d = features.shape
    grid = features[:, 1:].reshape(b, lay.rows, lay.cols, SIDE, SIDE, d).transpose(2, 3)
    grid = grid.reshape(b, lay.rows * SIDE, lay.cols * SIDE, d)
    h, w = lay.grid()
    grid = grid[:, lay.top:lay.top + h, lay.left:lay.left + w]
    newline = model.model.image_newline.expand(b, h, 1, d)
    grid = torch.cat([grid, newline], dim=2).flatten(1, 2)
    return torch.cat([features[:, 0], grid], dim=1)


def attention_mask(segment):
    """A position sees the earlier ones of the prefix (segment 0) and of its own segment."""
    n = segment.shape[1]
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    same = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
    seen = (causal & same)[:, None]
    return torch.zeros(seen.shape).masked_fill_(~seen, -math.inf)


def hidden_states(model, ids, segment, position, image_tokens, first):
    """Last hidden states; image_tokens [B, N, D] replaces the placeholder run that starts at column `first`."""
    embeds = model.get_input_embeddings()(ids)
    n = image_tokens.shape[1]
    embeds = torch.cat([embeds[:, :first], image_tokens, embeds[:, first + n:]], dim=1)
    return model.model.language_model(inputs_embeds=embeds, attention_mask=attention_mask(segment),
                                      position_ids=position, use_cache=False).last_hidden_state


def save(model, processor, folder):
    """bfloat16 shards, tokenizer and processor files, as transformers writes them."""
    state = {k: v.detach().to(torch.bfloat16).clone() for k, v in model.state_dict().items()}
    config = type(model.config).from_dict(model.config.to_dict())
    for part in (config, config.text_config, config.vision_config):
        part.dtype = torch.bfloat16
    copy = LlavaOnevisionForConditionalGeneration(config).to(torch.bfloat16)
    copy.load_state_dict(state)
    copy.generation_config = model.generation_config
    copy.save_pretrained(folder, max_shard_size="10MB", safe_serialization=True)
    processor.save_pretrained(folder)


def skip_post_layernorm(model):
    """LLaVA-OneVision takes the vision features before post_layernorm, although the tensor is in the file.

    transformers 4.56 and 4.57 return hidden_states[-1] after it (pull request 40994 mended that); without the layer
    every version agrees with the published models.
    """
    model.model.vision_tower.vision_model.post_layernorm = torch.nn.Identity()
    return model


def load(folder):
    """For evaluation with transformers' own forward pass, in float32."""
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return skip_post_layernorm(model), AutoProcessor.from_pretrained(folder, use_fast=False)
