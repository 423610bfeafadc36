"""Draws the picture that stands for the demo, and the question asked about it."""
import argparse
import json
import random
from pathlib import Path

import scenes
from paths import DEMO

QUESTION = "Describe the picture."


def hero(width=768, height=512):
    """A large picture: the model sees it at 192 x 128 and as six tiles of that."""
    rng = random.Random("hero")
    scene = scenes.Scene(width, height, (244, 246, 252), [], [])
    for kind, color, size, cell in [("star", "yellow", "large", 0), ("circle", "red", "large", 2),
                                    ("triangle", "green", "large", 6)]:
        scene.shapes.append(scenes.place_shape(rng, kind, color, size, cell, width, height))
    for kind, text, cell in [("word", "boat", 4), ("number", "42", 8)]:
        scene.texts.append(scenes.place_text(rng, kind, cell, width, height, text))
    return scene, scenes.draw(scene, rng)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--out", type=Path, default=DEMO)
    args = ap.parse_args()
    scene, picture = hero()
    picture.save(args.out / "hero.png", optimize=True)
    text = json.dumps({"image": "../hero.png", "question": QUESTION, "answers": [scenes.description(scene)]}, indent=1)
    (args.out / "data/hero.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
