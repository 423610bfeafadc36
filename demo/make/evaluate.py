"""Exact-match accuracy per question type of a saved model, with transformers' own processor and generate.

An answer is right if, lower-cased, trimmed and without punctuation, it equals one of the listed answers.
"""
import argparse
import json
import re
from collections import Counter
from pathlib import Path

import torch
from PIL import Image

import model as M
from batches import Batch, Vocabulary
from train import answer_scores

PROMPT = "<|im_start|>user\n<image>\n{}<|im_end|>\n<|im_start|>assistant\n"


def plain(text):
    return re.sub(r"[^\w\s]", "", text).lower().strip()


def by_generation(model, processor, picture, rows):
    for row in rows:
        inputs = processor(images=picture, text=PROMPT.format(row["question"]), return_tensors="pt")
        longest = 128 if row["type"] == "describe" else 16
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=longest)
        said = processor.decode(ids[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
        yield row, said, plain(said) in [plain(a) for a in row["answers"]]


def by_packing(model, vocab, picture, rows):
    """All questions of one picture in one pass. Greedy decoding says the first answer just when each of its tokens wins."""
    batch = Batch(vocab, [(picture, [(r["question"], r["answers"], r["type"]) for r in rows])], budget=10 ** 6)
    scores, target, _ = answer_scores(model, batch, M.view_features(model, batch.views))
    hits = iter((scores.argmax(-1) == target).tolist())
    for row, (start, end, _) in zip(rows, batch.spans[0]):
        yield row, None, all([next(hits) for _ in range(end - start)])


@torch.no_grad()
def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--model", type=Path, required=True)
    ap.add_argument("--data", type=Path, required=True)
    ap.add_argument("--packed", action="store_true", help="much faster, for thousands of questions")
    ap.add_argument("--wrong", action="store_true", help="print the wrong answers")
    ap.add_argument("--threads", type=int, default=2)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    model, processor = M.load(args.model)
    model.eval()
    vocab = Vocabulary(processor.tokenizer)
    groups = {}
    for line in open(args.data, encoding="utf-8"):
        row = json.loads(line)
        groups.setdefault(row["image"], []).append(row)
    right, total = Counter(), Counter()
    for image, rows in groups.items():
        picture = Image.open(args.data.parent / image).convert("RGB")
        answers = by_packing(model, vocab, picture, rows) if args.packed else by_generation(model, processor, picture, rows)
        for row, said, hit in answers:
            total[row["type"]] += 1
            right[row["type"]] += hit
            if args.wrong and not hit:
                print(image, row["question"], "|", row["answers"][0], "|", said)
    for kind in sorted(total):
        print(f"{kind:10} {right[kind]:6} / {total[kind]:6} = {right[kind] / total[kind]:.4f}")
    print(f"{'all':10} {sum(right.values()):6} / {sum(total.values()):6} = {sum(right.values()) / sum(total.values()):.4f}")


if __name__ == "__main__":
    main()
