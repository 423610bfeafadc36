"""(A) Tiny random-weight checkpoints as Hugging Face saves them, and what transformers computes from them."""
import torch
from PIL import Image

import common as c
from common import GOLDEN, IMAGE_PART, text_part


def pictures(case, sizes):
    """Writes NAME_WxH.png files and returns their names."""
    names = []
    for k, (w, h, seed) in enumerate(sizes):
        names.append(f"picture{k}_{w}x{h}.png")
        (GOLDEN / case).mkdir(parents=True, exist_ok=True)
        c.make_picture(w, h, seed).save(GOLDEN / case / names[-1], optimize=True)
    return names


def run_case(case, model_dir, image_files, messages, keep=lambda name: True):
    """image_files and model_dir are relative to the case's folder. Writes case.json and taps.safetensors."""
    folder = GOLDEN / case
    folder.mkdir(parents=True, exist_ok=True)
    model_path = (folder / model_dir).resolve()
    images = [Image.open(folder / f).convert("RGB") for f in image_files]
    rendered = c.load_tokenizer(model_path).apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = c.prepare(model_path, images, rendered)
    model = c.load_model(model_path)
    taps = c.Taps(model)
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits[0]
        t = {"input_ids": inputs["input_ids"][0]}
        views, tokens = [], []
        if images:
            feats = model.model.get_image_features(inputs["pixel_values"], inputs["image_sizes"],
                                                   batch_num_images=inputs["batch_num_images"])
            tokens = [len(f) for f in feats]
            t["image_features"] = torch.cat(feats, 0)
            pv = inputs["pixel_values"]  # images x views x 3 x H x W, or views of all images in order
            t["pixel_values"] = pv.reshape(-1, *pv.shape[-3:])
            views = [pv.shape[1]] * len(images)
            assert len(t["pixel_values"]) == len(taps.t["projector.out"])
            mask = t["input_ids"] == model.config.image_token_index
            assert int(mask.sum()) == sum(tokens)
            assert torch.equal(taps.t["inputs_embeds"][mask], t["image_features"])
    t.update(taps.t)
    t["logits"] = logits
    t = {k: v for k, v in t.items() if keep(k)}
    c.save_tensors(folder / "taps.safetensors", t)
    c.write_json(folder / "case.json", {
        "model": model_dir, "images": image_files, "messages": messages, "add_generation_prompt": True,
        "rendered": rendered, "views_per_image": views, "tokens_per_image": tokens, "positions": len(logits),
        "taps": {k: [str(v.dtype).removeprefix("torch.")] + list(v.shape) for k, v in t.items()}})
    stats = {k: round(float(v.float().std()), 2) for k, v in t.items() if k not in ("input_ids", "pixel_values")}
    gap = logits.topk(2).values
    print(case, "positions", len(logits), "tokens", tokens, "views", views, "top-1 gap", round(float((gap[:, 0] - gap[:, 1]).mean()), 2))
    print("  std", stats)


def main():
    tok = c.make_tokenizer()
    ask = lambda text, n: [{"role": "user", "content": [IMAGE_PART] * n + [text_part(text)]}]

    # GQA with q/k/v bias, head of its own, new tensor names. 100x70: 2x2 tiles, 8x8 grid unpadded to 6x8.
    c.save_model(c.make_model(c.make_config(tok, kv_heads=2, tied=False), 1, exact=True), tok, GOLDEN / "tiled" / "model")
    run_case("tiled", "model", pictures("tiled", [(100, 70, 11)]), ask("What is shown in this image?", 1))

    # 4x4 tiles, 16x16 grid unpadded to 14x16 = 224 > 1.21 * 9 * 16, so it is interpolated to 11x12.
    run_case("max9", "../tiled/model", pictures("max9", [(240, 200, 12)]), ask("How many shapes are there?", 1),
             keep=lambda name: ".layer." not in name)

    # Text alone.
    run_case("text_only", "../tiled/model", [], [
        {"role": "system", "content": [text_part("You are a helpful assistant.")]},
        {"role": "user", "content": [text_part("Tell me a short story about a cat and a dog.")]}])

    # Two images in one sample: no tiles. Tied head, old tensor names, mean and std that are not one half.
    clip = dict(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
    c.save_model(c.make_model(c.make_config(tok, kv_heads=1, tied=True), 2), tok, GOLDEN / "two_images" / "model",
                 old_names=True, **clip)
    two = pictures("two_images", [(90, 60, 21), (50, 80, 22)])
    run_case("two_images", "model", two, ask("What is the difference between the two pictures?", 2))

    # The same question to an f16 checkpoint in two shards with an index, old names; computed in f32 from the f16 weights.
    c.save_model(c.make_model(c.make_config(tok, kv_heads=2, tied=False, text_layers=2, vision_layers=2), 3), tok,
                 GOLDEN / "two_images_f16" / "model", dtype=torch.float16, shard="260KB")
    run_case("two_images_f16", "model", [f"../two_images/{n}" for n in two],
             ask("What is the difference between the two pictures?", 2), keep=lambda name: ".layer." not in name)

    # MHA: as many K/V heads as heads.
    c.save_model(c.make_model(c.make_config(tok, kv_heads=4, tied=False, text_layers=2, vision_layers=2), 4,
                              exact=True), tok, GOLDEN / "mha" / "model")
    run_case("mha", "model", ["../tiled/picture0_100x70.png"], ask("What is shown in this image?", 1),
             keep=lambda name: not name.startswith(("vision.layer", "vision.emb", "pixel")))


if __name__ == "__main__":
    main()
