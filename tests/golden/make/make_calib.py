"""(B) Three calibration samples, and the gradients that PyTorch's autograd gives for them.

Writes calib/calib.jsonl with its pictures, and per model gradients.json, gradients_f16.json and calib.safetensors.
"""
import json

import torch
import torch.nn.functional as F
from PIL import Image

import common as c
from common import ANSWER, GOLDEN, IMAGE_PART, PROMPT, VISION, text_part

CASES = ["tiled", "mha"]
NAMES = {PROMPT: "prompt", ANSWER: "answer", VISION: "vision"}

SAMPLES = [  # width, height, seed of the picture, turns
    (100, 70, 31, ["What is shown in this image?", "There is a red circle on the left and a blue square on the right."]),
    (60, 90, 32, ["How many shapes are there?", "Three."]),
    (48, 48, 33, ["Which colour is the small triangle?", "The small triangle is green.",
                  "And the word under it?", "It's \"Größe\", I'd say: 你好!"]),
]


def write_samples():
    folder = GOLDEN / "calib"
    folder.mkdir(exist_ok=True)
    rows = []
    for i, (w, h, seed, turns) in enumerate(SAMPLES):
        name = f"calib{i}_{w}x{h}.png"
        c.make_picture(w, h, seed).save(folder / name, optimize=True)
        turns = ["<image>\n" + turns[0]] + turns[1:]
        rows.append({"id": f"calib{i}", "image": name,
                     "conversations": [{"from": ("human", "gpt")[k % 2], "value": t} for k, t in enumerate(turns)]})
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    (folder / "calib.jsonl").write_text(text, encoding="utf-8")


def messages_of(row):
    """LLaVA conversation -> chat messages. `<image>` is taken out of the text with the newline after it."""
    out = []
    for turn in row["conversations"]:
        n, text = turn["value"].count("<image>"), turn["value"].replace("<image>\n", "").replace("<image>", "")
        out.append({"role": {"human": "user", "gpt": "assistant"}[turn["from"]],
                    "content": [IMAGE_PART] * n + [text_part(text)]})
    return out


def tag(tok, rendered, messages, image_id):
    """Token ids and the modality of each: every assistant turn's content and its closing <|im_end|> are ANSWER."""
    spans, at = [], 0
    for m in messages:
        head = f"<|im_start|>{m['role']}\n"
        start = rendered.index(head, at) + len(head)
        end = rendered.index("<|im_end|>", start) + len("<|im_end|>")
        if m["role"] == "assistant":
            spans.append((start, end))
        at = end
    enc = tok(rendered, return_offsets_mapping=True)
    ids, tags = enc["input_ids"], []
    for k, (i, (a, b)) in enumerate(zip(ids, enc["offset_mapping"])):
        # Bytes of one character may be several tokens with the same span; none may straddle an edge.
        inside = [s <= a and b <= e for s, e in spans]
        assert any(inside) or all(b <= s or a >= e for s, e in spans), (k, tok.decode([i]))
        tags.append(VISION if i == image_id else ANSWER if any(inside) else PROMPT)
    return ids, tags


def load_samples(case):
    """[(input_ids, tags, model inputs)] of the calibration set, through the ordinary path: tiles as in evaluation."""
    folder = GOLDEN / case / "model"
    tok = c.load_tokenizer(folder)
    image_id = tok.convert_tokens_to_ids("<image>")
    out = []
    for line in (GOLDEN / "calib" / "calib.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        messages = messages_of(row)
        rendered = tok.apply_chat_template(messages, tokenize=False)
        image = Image.open(GOLDEN / "calib" / row["image"]).convert("RGB")
        inputs = c.prepare(folder, [image], rendered)
        expanded = tok.decode(inputs["input_ids"][0], clean_up_tokenization_spaces=False)
        ids, tags = tag(tok, expanded, messages, image_id)
        assert ids == inputs["input_ids"][0].tolist()
        out.append((ids, tags, inputs))
    return out


def embed(model, inputs):
    """inputs_embeds with the image features in place."""
    taps = c.Taps(model)
    with torch.no_grad():
        model(**inputs, use_cache=False)
    for h in taps.handles:
        h.remove()
    return taps.t["inputs_embeds"]


def sub_blocks(model):
    for i, layer in enumerate(model.model.language_model.layers):
        yield i, "attn", layer.self_attn.o_proj
        yield i, "mlp", layer.mlp.down_proj


def gradients(model, embeds, ids, tags, divisor=1.0):
    """Loss and {(layer, sub-block): gradient at the module's output} of one sample."""
    kept = {}
    handles = [m.register_forward_hook(lambda mod, a, out, key=(i, name): (out.retain_grad(), kept.__setitem__(key, out))[0])
               for i, name, m in sub_blocks(model)]
    x = embeds.clone().requires_grad_()
    logits = model(inputs_embeds=x[None], use_cache=False).logits[0].float()
    labels = torch.tensor([i if t == ANSWER else -100 for i, t in zip(ids, tags)])
    loss = F.cross_entropy(logits[:-1], labels[1:], ignore_index=-100)
    (loss / divisor).backward()
    for h in handles:
        h.remove()
    return float(loss), {k: v.grad[0].float() for k, v in kept.items()}


def summary(all_grads, all_tags):
    """mean |g| and mean g^2 per layer, sub-block and modality: each sample's, their plain mean, and pooled over tokens."""
    layers = {}
    for key in all_grads[0]:
        entry = layers.setdefault(key[0], {}).setdefault(key[1], {})
        for modality, name in NAMES.items():
            rows = [g[key].double()[torch.tensor(t) == modality] for g, t in zip(all_grads, all_tags)]
            a, q = [float(r.abs().mean()) for r in rows], [float((r * r).mean()) for r in rows]
            pool = torch.cat(rows)
            entry[name] = {"abs": a, "sq": q, "abs_mean": sum(a) / len(a), "sq_mean": sum(q) / len(q),
                           "abs_pooled": float(pool.abs().mean()), "sq_pooled": float((pool * pool).mean()),
                           "zeros": float((pool == 0).double().mean())}
    return [layers[i] for i in sorted(layers)]


def write_gradients(path, note, samples, losses, grads, tags):
    c.write_json(path, {
        "note": note,
        "samples": [{"loss": l, "labels": t.count(ANSWER), "prompt": t.count(PROMPT), "answer": t.count(ANSWER),
                     "vision": t.count(VISION)} for l, t in zip(losses, tags)],
        "layers": summary(grads, tags)})


def main():
    write_samples()
    for case in CASES:
        samples = load_samples(case)
        model = c.load_model(GOLDEN / case / "model")
        ids, tags = [s[0] for s in samples], [s[1] for s in samples]
        embeds = [embed(model, s[2]) for s in samples]
        out = {}
        for i, (t, x) in enumerate(zip(tags, embeds)):
            out[f"sample{i}.input_ids"] = torch.tensor(ids[i])
            out[f"sample{i}.modality"] = torch.tensor(t, dtype=torch.uint8)
            out[f"sample{i}.inputs_embeds"] = x

        pairs = [gradients(model, *a) for a in zip(embeds, ids, tags)]
        write_gradients(GOLDEN / case / "gradients.json", "f32 autograd", samples, [p[0] for p in pairs],
                        [p[1] for p in pairs], tags)
        out["sample0.layer0.attn.grad"] = pairs[0][1][0, "attn"]
        c.save_tensors(GOLDEN / case / "calib.safetensors", out)

        # The published environment: everything in f16, the loss divided by 128 samples, no loss scaling.
        half = c.load_model(GOLDEN / case / "model", torch.float16)
        pairs = [gradients(half, x.half(), i, t, 128.0) for x, i, t in zip(embeds, ids, tags)]
        write_gradients(GOLDEN / case / "gradients_f16.json", "f16 forward and backward, loss / 128, gradients NOT "
                        "multiplied back; losses are the undivided ones", samples,
                        [p[0] for p in pairs], [p[1] for p in pairs], tags)

        print(case, "lengths", [len(i) for i in ids], "answers", [t.count(ANSWER) for t in tags],
              "vision", [t.count(VISION) for t in tags])
        for name in ("gradients.json", "gradients_f16.json"):
            g = json.loads((GOLDEN / case / name).read_text())
            print(" ", name, [round(s["loss"], 4) for s in g["samples"]])
            for i, l in enumerate(g["layers"]):
                print("   ", i, {k: [float(f"{v['vision']['abs_mean']:.3g}"), float(f"{v['answer']['abs_mean']:.3g}"),
                                     round(v["vision"]["abs_mean"] / v["answer"]["abs_mean"], 4),
                                     round(v["vision"]["zeros"], 3)] for k, v in l.items()})


if __name__ == "__main__":
    main()
