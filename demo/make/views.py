"""The anyres geometry of LLaVA-OneVision for one picture size, and the views as 8-bit arrays.

The same numbers as in transformers' LlavaOnevisionImageProcessor and pack_image_features, but known per size, so that a
training batch of one size is a plain tensor operation. check_forward.py compares both.
"""
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from transformers.image_processing_utils import select_best_resolution

VIEW = 64
PATCH = 16
SIDE = VIEW // PATCH
PINPOINTS = [[64, 64], [64, 128], [128, 64], [128, 128], [128, 192], [192, 128], [192, 192]]


@dataclass(frozen=True)
class Layout:
    rows: int      # tiles
    cols: int
    width: int     # of the picture resized for the tiles
    height: int
    x: int         # where it is pasted
    y: int
    top: int       # rows and columns of features cropped at either side
    left: int

    def grid(self):
        return self.rows * SIDE - 2 * self.top, self.cols * SIDE - 2 * self.left

    def tokens(self):
        h, w = self.grid()
        return SIDE * SIDE + h * (w + 1)

    def views(self):
        return 1 + self.rows * self.cols


@lru_cache(maxsize=None)
def layout(width, height):
    best_h, best_w = select_best_resolution([height, width], PINPOINTS)
    sx, sy = best_w / width, best_h / height
    if sx < sy:
        new_w, new_h = best_w, min(int(np.ceil(height * sx)), best_h)
    else:
        new_h, new_w = best_h, min(int(np.ceil(width * sy)), best_w)
    rows, cols = best_h // VIEW, best_w // VIEW
    gh, gw = rows * SIDE, cols * SIDE
    top = left = 0
    if width / height > gw / gh:
        top = (gh - int(round(height * (gw / width), 7))) // 2
    else:
        left = (gw - int(round(width * (gh / height), 7))) // 2
    return Layout(rows, cols, new_w, new_h, (best_w - new_w) // 2, (best_h - new_h) // 2, top, left)


def cut(picture):
    """uint8 [views, 64, 64, 3]: the whole picture, then the tiles row by row."""
    lay = layout(*picture.size)
    base = np.asarray(picture.resize((VIEW, VIEW), Image.BICUBIC))
    resized = picture.resize((lay.width, lay.height), Image.BICUBIC)
    canvas = np.zeros((lay.rows * VIEW, lay.cols * VIEW, 3), np.uint8)
    canvas[lay.y:lay.y + lay.height, lay.x:lay.x + lay.width] = np.asarray(resized)
    tiles = canvas.reshape(lay.rows, VIEW, lay.cols, VIEW, 3).swapaxes(1, 2).reshape(-1, VIEW, VIEW, 3)
    return np.concatenate([base[None], tiles])


def transforms(width, height):
    """Per view (scale x, scale y, offset x, offset y) from picture pixels to view pixels."""
    lay = layout(width, height)
    sx, sy = lay.width / width, lay.height / height
    out = [(VIEW / width, VIEW / height, 0.0, 0.0)]
    for r in range(lay.rows):
        for c in range(lay.cols):
            out.append((sx, sy, lay.x - c * VIEW, lay.y - r * VIEW))
    return out
