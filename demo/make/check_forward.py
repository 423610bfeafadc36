"""Compares the batched forward pass with the one of transformers, from the picture file to the scores."""
import argparse
import random
from pathlib import Path

import torch
from transformers import AutoTokenizer

import model as M
from batches import Batch, Vocabulary, scene_sample
from train import answer_scores


def reference(model, processor, picture, question, answer):
    text = f"<|im_start|>user\n<image>\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>"
    inputs = processor(images=picture, text=text, return_tensors="pt")
    n = len(processor.tokenizer(f"{answer}<|im_end|>").input_ids)
    return model(**inputs).logits[0, -n - 1:-1]


@torch.no_grad()
def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--tokenizer", type=Path, required=True)
    args = ap.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    torch.manual_seed(0)
    model, processor = M.new_model(tokenizer).eval(), M.new_processor(tokenizer)
    M.skip_post_layernorm(model)
    for p in model.parameters():
        p.mul_(2.0)  # untrained weights are so small that every picture would score alike
    vocab, rng = Vocabulary(tokenizer), random.Random(0)
    for size in [(64, 64), (128, 128), (192, 128), (128, 192), (150, 110), (110, 150), (97, 240), (200, 190)]:
        _, picture, qas = scene_sample(rng, size, 1.0)
        batch = Batch(vocab, [(picture, qas)], budget=10 ** 6)
        got, _, _ = answer_scores(model, batch, M.view_features(model, batch.views))
        want = torch.cat([reference(model, processor, picture, q, a[0]) for q, a, _ in qas])
        print(size, batch.lay, len(qas), "largest difference", (got - want).abs().max().item(), "scale", want.std().item())
        assert torch.allclose(got, want, atol=1e-4)


if __name__ == "__main__":
    main()
