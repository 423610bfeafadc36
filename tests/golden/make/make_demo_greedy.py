"""(D) What transformers answers greedily, in f32, to 50 prompts of the demo model.

    python make_demo_greedy.py [--model demo/model] [--data demo/data/eval.jsonl demo/data/describe.jsonl] [--count 50]

Paths are relative to the working directory. Writes ../demo_greedy.json: per prompt the ids after expansion, the greedy
output ids (at most 48, the end token included) and at each step the gap between the best and the second logit, so that a
test can tell a wrong answer from a near tie.
"""
import argparse
import json
import pathlib

import torch
from PIL import Image, ImageOps

import common as c
from common import GOLDEN, IMAGE_PART, text_part


def pick(files, count):
    """Rows spread evenly over each file, the same number from each."""
    out = []
    for k, f in enumerate(files):
        rows = [json.loads(x) for x in f.read_text(encoding="utf-8").splitlines() if x.strip()]
        want = min(len(rows), count // len(files) + (k < count % len(files)))
        out += [(f, n, rows[n]) for n in sorted({i * len(rows) // want for i in range(want)})]
    return out


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", type=pathlib.Path, default=pathlib.Path("demo/model"))
    p.add_argument("--data", type=pathlib.Path, nargs="+",
                   default=[pathlib.Path("demo/data/eval.jsonl"), pathlib.Path("demo/data/describe.jsonl")])
    p.add_argument("--count", type=int, default=50)
    p.add_argument("--out", type=pathlib.Path, default=GOLDEN / "demo_greedy.json")
    a = p.parse_args()
    torch.set_num_threads(1)

    tok, model = c.load_tokenizer(a.model), c.load_model(a.model)
    rows, right, closest = [], 0, []
    for file, line, row in pick(a.data, a.count):
        names = row.get("images") or ([row["image"]] if row.get("image") else [])
        images = [ImageOps.exif_transpose(Image.open(file.parent / n)).convert("RGB") for n in names]
        messages = [{"role": "user", "content": [IMAGE_PART] * len(images) + [text_part(row["question"])]}]
        rendered = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        inputs = c.prepare(a.model, images, rendered)
        with torch.no_grad():
            out = model.generate(**inputs, attention_mask=torch.ones_like(inputs["input_ids"]), max_new_tokens=48,
                                 do_sample=False, num_beams=1, output_logits=True, return_dict_in_generate=True)
        ids = out.sequences[0, inputs["input_ids"].shape[1]:].tolist()
        best = [l[0].float().topk(2).values.tolist() for l in out.logits]
        gaps = [float(f"{x - y:.4g}") for x, y in best]
        text = tok.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        right += text.strip().lower().rstrip(".") in [s.strip().lower().rstrip(".") for s in row.get("answers", [])]
        closest.append(min(gaps))
        rows.append({"data": file.name, "line": line, "images": names, "question": row["question"],
                     "input_ids": inputs["input_ids"][0].tolist(), "output_ids": ids, "text": text, "gaps": gaps})
    c.write_json(a.out, rows)
    print(len(rows), "prompts,", right, "answered exactly; smallest gaps", sorted(round(g, 4) for g in closest)[:8])


if __name__ == "__main__":
    main()
