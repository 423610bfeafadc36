"""Training batches: pictures of one size with several questions each, as tensors."""
import json
import random
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

import scenes
from views import PATCH, SIDE, VIEW, cut, layout, transforms

TRAIN_SIZES = {(128, 128): 0.60, (192, 128): 0.14, (128, 192): 0.14, (150, 110): 0.06, (110, 150): 0.06}
# relative wish per question type; reading gets more because it is learned last
WEIGHT = {"shape": 1.0, "color": 1.0, "count": 0.6, "exists": 1.2, "size": 0.8, "position": 1.5, "word": 2.0, "number": 2.0}
EASY_HELD_OUT = 3900  # training pictures from here on only watch the training
CHARS = "abcdefghijklmnopqrstuvwxyz0123456789"
SLOTS = 3             # characters that can have their middle in one patch
LABELS = 3 + SLOTS + 4 + 1  # kind, colour, size; characters; word, and the three digits of a number; place
TEXT_BUDGET = 180     # tokens of questions and answers per picture


class Vocabulary:
    """The few token sequences a conversation is made of."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.encode = lru_cache(maxsize=200000)(lambda s: tuple(tokenizer(s, add_special_tokens=False).input_ids))
        self.image = tokenizer.convert_tokens_to_ids("<image>")
        self.head = self.encode("<|im_start|>user\n")
        self.newline = self.encode("\n")
        self.answer = self.encode("<|im_end|>\n<|im_start|>assistant\n")
        self.end = self.encode("<|im_end|>")
        self.again = self.encode("\n<|im_start|>user\n")
        self.pad = tokenizer.pad_token_id


def choose_types(rng):
    """Question types in random order, by weight, without replacement."""
    return sorted(WEIGHT, key=lambda t: rng.random() ** (1 / WEIGHT[t]), reverse=True)


def scene_sample(rng, size, describe, most=3):
    scene = scenes.random_scene(rng, *size, most)
    picture = scenes.draw(scene, rng)
    qas = scenes.questions(rng, scene, choose_types(rng))
    if rng.random() < describe:
        qas.insert(0, scenes.describe(rng, scene))
    return scene, picture, qas


def seeing_batch(vocab, rng, size, pictures):
    """Pictures with labelled patches and no questions."""
    drawn = [scenes.dense_scene(rng, *size) for _ in range(pictures)]
    return Batch(vocab, [(scenes.draw(s, rng), []) for s in drawn], labels=[patch_labels(s) for s in drawn])


class EasyVqa:
    """The training half of easy-VQA; the test half is never opened here."""

    def __init__(self, folder):
        self.folder = folder / "easy_vqa/train"
        self.rows = {}
        for question, answer, image in json.loads((self.folder / "questions.json").read_text()):
            self.rows.setdefault(image, []).append((question, [answer], "easy_vqa"))

    def sample(self, rng, held_out=False):
        image = rng.randrange(EASY_HELD_OUT, 4000) if held_out else rng.randrange(EASY_HELD_OUT)
        picture = Image.open(self.folder / f"images/{image}.png").convert("RGB")
        for flip in (Image.FLIP_LEFT_RIGHT, Image.FLIP_TOP_BOTTOM):
            if not held_out and rng.random() < 0.5:
                picture = picture.transpose(flip)
        rows = self.rows[image]
        return picture, rng.sample(rows, min(8, len(rows)))


# Labels for the features themselves. They teach the vision tower to see before the language model can ask.

def covered(box):
    """Pixels of each patch of a view that a box covers."""
    edges = np.arange(SIDE) * PATCH
    w = np.clip(np.minimum(box[2], edges + PATCH) - np.maximum(box[0], edges), 0, PATCH)
    h = np.clip(np.minimum(box[3], edges + PATCH) - np.maximum(box[1], edges), 0, PATCH)
    return h[:, None] * w[None, :]


def overlap(box, share):
    return covered(box) > share * min(PATCH * PATCH, (box[2] - box[0]) * (box[3] - box[1]))


def text_labels(text):
    """The word, or -100 for letters that are none; the digits, 11 where a number has fewer."""
    if text.kind == "word":
        return [scenes.WORDS.index(text.text) + 1 if text.text in scenes.WORDS else -100, 0, 0, 0]
    return [0] + [int(text.text[i]) + 1 if i < len(text.text) else 11 for i in range(3)]


def patch_labels(scene):
    """int64 [views, 16, LABELS]: kind, colour, size of the shape that fills most of a patch, its characters, its text, its place.

    The place in the picture is asked of the base view only: a tile cannot know where it comes from.
    """
    table = transforms(scene.width, scene.height)
    out = np.zeros((len(table), SIDE, SIDE, LABELS), np.int64)
    best = np.zeros((len(table), SIDE, SIDE))
    for v, (sx, sy, ox, oy) in enumerate(table):
        for s in scene.shapes:
            x0, y0, x1, y1 = s.box[0] * sx + ox, s.box[1] * sy + oy, s.box[2] * sx + ox, s.box[3] * sy + oy
            area = covered((x0, y0, x1, y1))
            hit = (area > np.maximum(best[v], 0.25 * min(PATCH * PATCH, (x1 - x0) * (y1 - y0))))
            best[v][hit] = area[hit]
            out[v][hit, -1] = s.cell + 1
            out[v][hit, :3] = (scenes.KINDS.index(s.kind) + 1, list(scenes.COLORS).index(s.color) + 1,
                               scenes.SIZES.index(s.size) + 1)
        for t in scene.texts:
            legible = t.px * sy >= 7.5
            box = [t.box[0] * sx + ox, t.box[1] * sy + oy, t.box[2] * sx + ox, t.box[3] * sy + oy]
            whole = min(box) >= -2 and max(box) <= VIEW + 2
            out[v][overlap(box, 0.15), 3 + SLOTS:-1] = text_labels(t) if legible and whole else [-100] * 4
            out[v][overlap(box, 0.15), -1] = t.cell + 1
            fill = {}
            for c, gx, gy in t.glyphs:
                px, py = int((gx * sx + ox) // PATCH), int((gy * sy + oy) // PATCH)
                slot = fill.get((px, py), 0)
                fill[px, py] = slot + 1
                if 0 <= px < SIDE and 0 <= py < SIDE and slot < SLOTS:
                    out[v, py, px, 3 + slot] = CHARS.index(c) + 1 if legible else -100
    out[1:, :, :, -1] = -100
    return out.reshape(len(table), SIDE * SIDE, LABELS)


def conversation(vocab, lay, qas, chat, budget):
    """(ids, segment, position, weight) of one sequence; weight > 0 on the tokens that count for the loss."""
    n = lay.tokens()
    ids = list(vocab.head) + [vocab.image] * n + list(vocab.newline)
    prefix = len(ids)
    segment, position, weight, spans = [0] * prefix, list(range(prefix)), [0.0] * prefix, []
    for k, (question, answers, kind) in enumerate(qas):
        lead = vocab.again if chat and k else ()
        body = lead + vocab.encode(question) + vocab.answer
        answer = vocab.encode(answers[0]) + vocab.end
        if k and len(ids) - prefix + len(body) + len(answer) > budget:
            continue
        start = len(ids) if chat else prefix
        spans.append((len(ids) + len(body), len(ids) + len(body) + len(answer), kind))
        ids += body + answer
        segment += [0 if chat else k + 1] * (len(body) + len(answer))
        position += range(start, start + len(body) + len(answer))
        weight += [0.0] * len(body) + [0.5 if kind == "describe" else 1.0] * len(answer)
    return ids, segment, position, weight, spans


class Batch:
    """Tensors of several conversations about pictures of one size."""

    def __init__(self, vocab, samples, chat=False, labels=None, budget=TEXT_BUDGET):
        self.lay = layout(*samples[0][0].size)
        self.views = torch.from_numpy(np.stack([cut(p) for p, _ in samples]))
        self.labels = None if labels is None else torch.from_numpy(np.stack(labels))
        rows = [conversation(vocab, self.lay, qas, chat, budget) for _, qas in samples]
        longest = max(len(r[0]) for r in rows)
        pad = lambda i, value: torch.tensor([r[i] + [value] * (longest - len(r[i])) for r in rows])
        self.ids, self.segment, self.position = pad(0, vocab.pad), pad(1, -1), pad(2, 0)
        self.weight = pad(3, 0.0)
        self.spans = [r[4] for r in rows]
        self.first = len(vocab.head)


def training_batch(vocab, easy, seed, step, pictures, rank, vision_only, easy_share, describe, most=3):
    """A pure function of seed, step and rank, so that a resumed run goes on with pictures it has not seen.

    All processes work on the same size in a step, so that none waits long for another.
    """
    rng = random.Random(f"train {seed} {step}")
    is_easy = not vision_only and rng.random() < easy_share
    size = rng.choices(list(TRAIN_SIZES), weights=TRAIN_SIZES.values())[0]
    chat = rng.random() < 0.2
    rng = random.Random(f"train {seed} {step} {rank}")
    if vision_only:
        return seeing_batch(vocab, rng, size, pictures)
    if is_easy:
        return Batch(vocab, [easy.sample(rng) for _ in range(pictures)], chat=chat)
    drawn = [scene_sample(rng, size, describe, most) for _ in range(pictures)]
    for _, _, qas in drawn:
        rng.shuffle(qas)
    return Batch(vocab, [(p, q) for _, p, q in drawn], chat=chat, labels=[patch_labels(s) for s, _, _ in drawn])


def watch_batches(vocab, easy, pictures=8):
    """Held-out pictures that only watch the training."""
    rng = random.Random("watch")
    out = []
    for size, count in {(128, 128): 6, (192, 128): 2, (110, 150): 2}.items():
        for _ in range(count):
            drawn = [scene_sample(rng, size, 1.0) for _ in range(pictures)]
            out.append(Batch(vocab, [(p, q) for _, p, q in drawn], budget=10 ** 6))
    for _ in range(2):
        out.append(Batch(vocab, [easy.sample(rng, held_out=True) for _ in range(16)]))
    return out
