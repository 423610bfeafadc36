"""Writes the held-out questions, the descriptions, the calibration conversations and their pictures."""
import argparse
import json
import random
from collections import Counter
from pathlib import Path

import scenes
from batches import TRAIN_SIZES
from paths import DEMO

PICTURES = 360
QUESTIONS_EACH = 4
DESCRIPTIONS = 100
CALIBRATION = 128


def write_picture(folder, name, picture, index):
    """PNG mostly; every tenth a JPEG and every tenth a lossless WebP, so that each decoder is used."""
    kind = {3: "jpg", 7: "webp"}.get(index % 10, "png")
    file = folder / f"{name}.{kind}"
    options = {"jpg": {"quality": 95}, "webp": {"lossless": True, "method": 6}, "png": {"optimize": True}}[kind]
    picture.save(file, **options)
    return f"{folder.name}/{file.name}"


def new_picture(split, index):
    """Seeds by name: no split shares a picture with another one or with the training."""
    rng = random.Random(f"{split} {index}")
    size = rng.choices(list(TRAIN_SIZES), weights=TRAIN_SIZES.values())[0]
    scene = scenes.random_scene(rng, *size)
    return rng, scene, scenes.draw(scene, rng)


def write_lines(file, rows):
    file.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")


def evaluation(folder):
    short, long, asked = [], [], Counter()
    for i in range(PICTURES):
        rng, scene, picture = new_picture("eval", i)
        image = write_picture(folder / "pictures", f"eval{i:03}", picture, i)
        # the types that were asked least so far, so that all come out about equally often
        types = sorted(scenes.ASK, key=lambda t: (asked[t], rng.random()))
        for question, answers, kind in scenes.questions(rng, scene, types)[:QUESTIONS_EACH]:
            asked[kind] += 1
            short.append({"id": f"eval{i:03}-{kind}", "image": image, "question": question, "answers": answers,
                          "type": kind})
        if i < DESCRIPTIONS:
            question, answers, kind = scenes.describe(rng, scene)
            long.append({"id": f"describe{i:03}", "image": image, "question": question, "answers": answers, "type": kind})
    write_lines(folder / "eval.jsonl", short)
    write_lines(folder / "describe.jsonl", long)
    print(len(short), "questions", dict(asked))


def calibration(folder):
    rows = []
    for i in range(CALIBRATION):
        rng, scene, picture = new_picture("calib", i)
        image = write_picture(folder / "pictures", f"calib{i:03}", picture, i)
        types = rng.sample(list(scenes.ASK), len(scenes.ASK))
        qas = [scenes.describe(rng, scene)] if i % 3 == 0 else []
        qas += scenes.questions(rng, scene, types)[:rng.randint(1, 4) if not qas else rng.randint(0, 2)]
        turns = []
        for k, (question, answers, _) in enumerate(qas):
            turns.append({"from": "human", "value": ("<image>\n" if k == 0 else "") + question})
            turns.append({"from": "gpt", "value": answers[0]})
        rows.append({"id": f"calib{i:03}", "image": image, "conversations": turns})
    write_lines(folder / "calib.jsonl", rows)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--out", type=Path, default=DEMO / "data")
    args = ap.parse_args()
    (args.out / "pictures").mkdir(parents=True, exist_ok=True)
    evaluation(args.out)
    calibration(args.out)


if __name__ == "__main__":
    main()
