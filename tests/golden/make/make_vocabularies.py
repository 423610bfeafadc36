"""(G) Small tokenizers of each published build, and the ids their originals give.

    python make_vocabularies.py       -> text/<build>/{tokenizer.*, ids.json}

spm            sentencepiece: BPE with byte fallback as Llama 2 was trained, read as tokenizer.model
internlm2      the same without a space in front, with a NUL piece, unused pieces that tokenizer_config.json renames
legacy         that vocabulary as tokenizer.json the way transformers converts Llama 2: Prepend and Replace
first, never   the same with Metaspace, not "legacy"
llama3         byte level: Llama 3's expression, ignore_merges, BOS from the post-processor
smollm2        byte level: Digits, then GPT-2's expression

The texts are encoded with special tokens off: text is plain text in Ballast. Row: {text, ids, decoded}.
"""
import io
import json
import random

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import common as c
from common import CORPUS, GOLDEN
from make_tokenizer import LITERALS, TEXTS

OUT = GOLDEN / "text"
SPACE = "\u2581"
MORE = ["  two", "a" * 40, "    indented\n        more", "\u2581x \u2581", "3.14159 2024-07-26 v2.0", "x  1", "a   22  b",
        "\u00bd\u00b2 x\u00b2", "tab\t\n \n", "don't DON'T I'LL", "<0x41><s></s>", " \u3000 7"]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def noise():
    """Texts that nobody wrote: letters, digits, spaces and marks at random."""
    rng, letters = random.Random(5), "ab\u00e9Z19\u00b2 \t\n'.,-<>\u4f60\U0001f600 "
    return ["".join(rng.choice(letters) for _ in range(rng.randint(1, 24))) for _ in range(60)]


ALL = [s for s in TEXTS + LITERALS + MORE + noise()]


def train():
    words = CORPUS.replace("\n", " ").split(". ")
    lines = [s.strip() for s in words] * 3 + ["def f(x):", "    return x", "        if x:", "a  b   c    d"] * 4
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=560, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True,
        character_coverage=0.995, num_threads=1, minloglevel=2)
    proto = pb.ModelProto()
    proto.ParseFromString(model.getvalue())
    for f in ("input", "model_prefix"):
        proto.trainer_spec.ClearField(f)
    # As in Llama 2: runs of spaces share one score, the lowest, so that merges tie.
    for p in proto.pieces:
        if len(p.piece) > 1 and set(p.piece) == {SPACE}:
            p.score = -1e9
    return proto


def processor(proto):
    return spm.SentencePieceProcessor(model_proto=proto.SerializeToString())


def rows(encode, decode):
    return [{"text": s, "ids": ids, "decoded": decode(ids)} for s in ALL for ids in [encode(s)]]


def write(name, table, **files):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        (folder / file).write_bytes(data) if isinstance(data, bytes) else (folder / file).write_text(data)
    c.write_json(folder / "ids.json", table)
    print(name, len(table), "rows")


def spm_decode(proto, names={}):
    """Bytes of all tokens in a row, the space in front kept: what a reader of single tokens gets."""
    def decode(ids):
        out = b""
        for i in ids:
            p = proto.pieces[i]
            out += bytes([int(p.piece[3:5], 16)]) if p.type == p.BYTE else p.piece.replace(SPACE, " ").encode()
        return out.decode()
    return decode


def make_spm(proto):
    sp = processor(proto)
    write("spm", rows(lambda s: sp.encode(s.replace("\x00", "\x00")), spm_decode(proto)),
          **{"tokenizer.model": proto.SerializeToString()})


def make_internlm2(proto):
    own = pb.ModelProto()
    own.CopyFrom(proto)
    own.normalizer_spec.add_dummy_prefix = False
    lowest = min(p.score for p in own.pieces if p.score > -1e8)
    own.pieces.add(piece="\x00", score=lowest - 1, type=pb.ModelProto.SentencePiece.NORMAL)
    first = len(own.pieces)
    for i in range(4):
        own.pieces.add(piece=f"[UNUSED_TOKEN_{141 + i}]", score=0, type=pb.ModelProto.SentencePiece.USER_DEFINED)
    added = lambda s: {"content": s, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {"tokenizer_class": "InternLM2Tokenizer", "bos_token": "<s>", "eos_token": "</s>", "added_tokens_decoder": {
        "0": added("<unk>"), "1": added("<s>"), "2": added("</s>"), str(first): added("<|im_start|>"),
        str(first + 1): added("<|im_end|>"), str(len(own.pieces)): added("<img>"), str(len(own.pieces) + 1): added("</img>"),
        str(len(own.pieces) + 2): added("<IMG_CONTEXT>")}}
    sp = processor(own)
    write("internlm2", rows(sp.encode, spm_decode(own)),
          **{"tokenizer.model": own.SerializeToString(), "tokenizer_config.json": json.dumps(config, indent=1) + "\n"})


def converted(proto):
    """Vocabulary and merges as transformers' SentencePieceExtractor takes them out of the model."""
    from transformers.convert_slow_tokenizer import SentencePieceExtractor
    path = OUT / "spm" / "tokenizer.model"
    vocab, merges = SentencePieceExtractor(str(path)).extract(None)[:2]
    return vocab, merges


def make_json(proto, name, normalizer, pre):
    vocab, merges = converted(proto)
    tok = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in ("<unk>", "<s>", "</s>")])
    if normalizer:
        tok.normalizer = normalizer
    if pre:
        tok.pre_tokenizer = pre
    strip = [] if name == "never" else [decoders.Strip(" ", 1, 0)]
    tok.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()] + strip)
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    tok.encode_special_tokens = True
    write(name, rows(lambda s: tok.encode(s, add_special_tokens=False).ids, spm_decode(proto)),
          **{"tokenizer.json": tok.to_str() + "\n"})


def make_bytes(name, pre, ignore_merges, post):
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tok = Tokenizer(models.BPE(unk_token=None, fuse_unk=False, byte_fallback=False))
    tok.pre_tokenizer = pre
    tok.train_from_iterator([CORPUS * 2], trainers.BpeTrainer(vocab_size=360, initial_alphabet=alphabet, show_progress=False))
    state = json.loads(tok.to_str())
    if ignore_merges:  # a token that merging never makes, as published vocabularies have
        state["model"]["ignore_merges"] = True
        for word in ("\u0120indented", "DON"):
            state["model"]["vocab"][word] = len(state["model"]["vocab"])
    tok = Tokenizer.from_str(json.dumps(state))
    tok.decoder = decoders.ByteLevel()
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tok.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in names])
    if post:
        tok.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
            single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B",
            special_tokens=[("<|begin_of_text|>", tok.token_to_id("<|begin_of_text|>"))])])
    tok.encode_special_tokens = True
    write(name, rows(lambda s: tok.encode(s, add_special_tokens=False).ids, lambda ids: tok.decode(ids, skip_special_tokens=False)),
          **{"tokenizer.json": tok.to_str() + "\n"})


def main():
    proto = train()
    make_spm(proto)
    make_internlm2(proto)
    replace = normalizers.Replace(" ", SPACE)
    make_json(proto, "legacy", normalizers.Sequence([normalizers.Prepend(SPACE), replace]), None)
    make_json(proto, "first", None, pre_tokenizers.Metaspace(SPACE, "first", False))
    make_json(proto, "never", None, pre_tokenizers.Metaspace(SPACE, "never", False))
    byte_level = lambda regex: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
    make_bytes("llama3", pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated", False), byte_level(False)]), True, True)
    make_bytes("smollm2", pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level(True)]), False, False)


if __name__ == "__main__":
    main()
