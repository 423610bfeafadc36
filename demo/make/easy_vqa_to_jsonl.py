"""Converts a split of easy-VQA (https://github.com/vzhou842/easy-VQA, MIT) to the JSONL form that `ballast eval` reads."""
import argparse
import json
import os
from pathlib import Path

from paths import test_data


def kind(answer):
    if answer in ("yes", "no"):
        return "yes_no"
    return "shape" if answer in ("circle", "rectangle", "triangle") else "color"


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--folder", type=Path, default=test_data() / "easy_vqa/test", help="holds questions.json and images/")
    ap.add_argument("--out", type=Path, required=True, help="JSONL file; picture paths are made relative to its folder")
    args = ap.parse_args()
    images = os.path.relpath((args.folder / "images").resolve(), args.out.resolve().parent)
    with open(args.out, "w", encoding="utf-8") as f:
        for i, (question, answer, image) in enumerate(json.loads((args.folder / "questions.json").read_text())):
            row = {"id": f"easy{i:05}", "image": f"{images}/{image}.png", "question": question, "answers": [answer],
                   "type": kind(answer)}
            f.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
