"""Trains the byte-level BPE tokenizer (in the manner of Qwen2) on the demo's own sentences and Shakespeare."""
import argparse
import json
import random
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import Qwen2TokenizerFast

import scenes
from model import CHAT, SPECIAL, VOCAB
from paths import test_data

SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
         r"\s+(?!\S)|\s+")


def own_sentences():
    rng = random.Random(7)
    for _ in range(6000):
        scene = scenes.random_scene(rng, 128, 128)
        yield "user\nassistant\n"
        yield scenes.description(scene)
        for question, answers, _ in scenes.questions(rng, scene, scenes.ASK):
            yield question
            yield from answers
    for word in scenes.WORDS + scenes.DESCRIBE:
        yield from [word] * 20


def easy_vqa_sentences(folder):
    for question, answer, _ in json.loads((folder / "easy_vqa/train/questions.json").read_text())[:8000]:
        yield question
        yield answer


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--data", type=Path, default=test_data())
    ap.add_argument("--out", type=Path, required=True)
    args = ap.parse_args()

    shakespeare = sorted((args.data / "text/tinyshakespeare").glob("*.txt"))
    tok = Tokenizer(models.BPE(byte_fallback=False, fuse_unk=False))
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=VOCAB - len(SPECIAL), special_tokens=[],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    lines = [line for f in shakespeare for line in f.read_text(encoding="utf-8").splitlines()]
    corpus = list(own_sentences()) + list(easy_vqa_sentences(args.data)) + lines
    tok.train_from_iterator(corpus, trainer)

    tok.add_special_tokens(SPECIAL)
    fast = Qwen2TokenizerFast(tokenizer_object=tok, unk_token="<|endoftext|>", bos_token=None, eos_token="<|im_end|>",
                              pad_token="<|endoftext|>", additional_special_tokens=SPECIAL[1:],
                              model_max_length=4096, chat_template=CHAT)
    fast.save_pretrained(args.out)
    tok.model.save(str(args.out))
    print(len(fast), fast.convert_tokens_to_ids(SPECIAL), fast.tokenize("What color is the large red circle?\n 42 bird"))


if __name__ == "__main__":
    main()
