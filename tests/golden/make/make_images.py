"""Golden data of src/image: resizing and decoding against Pillow, views and token counts against transformers.

Writes tests/golden/anyres/{resize,plans,pixels}.txt and view28.f32, tests/golden/image/expected.txt, and the small
pictures in tests/fuzz/corpus/fuzz_image/ that serve as test input and as fuzzing corpus. Pictures of the first three
are not files: pixel(x, y, c) = ((7x + 13y + 29c) XOR ((x*y) >> 3)) & 255. Same versions as in README.md of this folder.
"""
import hashlib
import io
import pathlib
import random
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.image_utils import ChannelDimension
from transformers.models.llava_onevision.image_processing_llava_onevision import LlavaOnevisionImageProcessor
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

TESTS = pathlib.Path(__file__).resolve().parent.parent.parent
ANYRES, IMAGE, CORPUS = TESTS / "golden/anyres", TESTS / "golden/image", TESTS / "fuzz/corpus/fuzz_image"
FILTERS = {1: Image.Resampling.LANCZOS, 2: Image.Resampling.BILINEAR, 3: Image.Resampling.BICUBIC}
NORMS = {"half": ([0.5] * 3, [0.5] * 3),
         "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])}


def sha(data):
    return hashlib.sha256(data).hexdigest()[:32]


def pattern(w, h):
    y, x, c = np.meshgrid(np.arange(h), np.arange(w), np.arange(3), indexing="ij")
    return (((7 * x + 13 * y + 29 * c) ^ ((x * y) >> 3)) & 255).astype(np.uint8)


def pinpoints(view, most):
    return [[r * view, c * view] for r in range(1, most + 1) for c in range(1, most + 1)]


# ---- resize.txt: w h new_w new_h filter sha ---------------------------------------------------------------------------

def make_resize(rng):
    sizes = [(1, 1, 7, 5), (7, 5, 1, 1), (1, 300, 20, 1), (3000, 1, 13, 2), (40, 30, 40, 17), (40, 30, 23, 30),
             (2, 2, 301, 299), (1, 5000, 9, 9)]
    # around the size where Pillow 13 turns to the other order of passes
    sizes += [(40, 80, 30, 60), (40, 80, 30, 59), (40, 80, 50, 79), (40, 80, 50, 81), (31, 57, 30, 55), (31, 57, 30, 54)]
    sizes += [tuple(rng.choice([rng.randint(1, 40), rng.randint(1, 400)]) for _ in range(4)) for _ in range(42)]
    lines = []
    for w, h, new_w, new_h in sizes:
        for number, kind in FILTERS.items():
            out = Image.fromarray(pattern(w, h)).resize((new_w, new_h), kind)
            lines.append(f"{w} {h} {new_w} {new_h} {number} {sha(out.tobytes())}")
    (ANYRES / "resize.txt").write_text("\n".join(lines) + "\n")


# ---- plans.txt: w h view patches most max_tiles best_h best_w new_h new_w h0 h0*w0 h1 h1*w1 tokens --------------------------

class Sizes(LlavaOnevisionProcessor):
    """Only the token arithmetic of the processor, without a tokenizer."""

    def __init__(self, image_processor, num_image_tokens, max_tiles):
        self.image_processor, self.num_image_tokens = image_processor, num_image_tokens
        self.vision_aspect_ratio = f"anyres_max_{max_tiles}"


def plan_line(w, h, view, patches, most, max_tiles):
    points = pinpoints(view, most)
    ip = LlavaOnevisionImageProcessor(size={"height": view, "width": view}, image_grid_pinpoints=points)
    tokens = Sizes(ip, patches * patches, max_tiles)._get_number_of_features(h, w, view, view)
    best_h, best_w = select_best_resolution((h, w), points)
    image = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (h, w, 3), (0, 0, 0))
    new_h, new_w = get_patch_output_size(image, (best_h, best_w), ChannelDimension.LAST)
    unlimited = Sizes(ip, patches * patches, 10**9)
    grids = []
    for sizes in (unlimited, Sizes(ip, patches * patches, max_tiles)):
        body, rows = sizes._get_unpadded_features(h, w, patches, patches, best_h // view, best_w // view)
        grids += [rows, body]
    return " ".join(map(str, [w, h, view, patches, most, max_tiles, best_h, best_w, new_h, new_w, *grids, tokens]))


def rounded_up(rng):
    """Sizes whose grid depends on round(x, 7) before int(), with an odd result, where it shows."""
    found = []
    while len(found) < 12:
        w, h = rng.randint(1, 1500), rng.randint(1, 1500)
        best_h, best_w = (n // 384 * 27 for n in select_best_resolution((h, w), pinpoints(384, 6)))
        side, x = (best_h, h * (best_w / w)) if w / h > best_w / best_h else (best_w, w * (best_h / h))
        if (side - int(x)) // 2 != (side - int(round(x, 7))) // 2:
            found.append((w, h))
    return found


def make_plans(rng):
    lines = []
    for h, w in [(384, 384), (336, 336), (480, 640), (899, 1024), (1000, 1000), (1080, 1920), (3024, 4032),
                 (100, 2000), (2000, 100), (42, 70), (28, 28), (1, 10000), (10000, 1), (1, 1), (7, 3), (1920, 1920),
                 (1536, 1535), (2304, 2304)]:
        lines.append(plan_line(w, h, 384, 27, 6, 9))
    for _ in range(200):
        lines.append(plan_line(rng.randint(1, rng.choice([300, 5000])), rng.randint(1, rng.choice([300, 5000])),
                               384, 27, 6, 9))
    for _ in range(60):
        lines.append(plan_line(rng.randint(8, 400), rng.randint(8, 400), 56, 4, 4, rng.choice([1, 4, 9])))
    lines += [plan_line(w, h, 384, 27, 6, 9) for w, h in rounded_up(rng)]
    for side in range(380, 2400, 67):  # squares: the ratio meets the grid exactly
        lines.append(plan_line(side, side, 384, 27, 6, 9))
    (ANYRES / "plans.txt").write_text("\n".join(lines) + "\n")


# ---- pixels.txt: how w h view most norm n_views sha -------------------------------------------------------------------

def pixels(how, w, h, view, most, norm):
    mean, std = NORMS[norm]
    ip = LlavaOnevisionImageProcessor(size={"height": view, "width": view}, image_mean=mean, image_std=std,
                                      image_grid_pinpoints=pinpoints(view, most))
    image = Image.fromarray(pattern(w, h))
    sample = [image] if how == "anyres" else [image, image]
    return ip([sample], return_tensors="np")["pixel_values"][0].astype("<f4")


def make_pixels():
    lines = []
    for case in [("anyres", 60, 40, 28, 3, "clip"), ("anyres", 200, 37, 56, 4, "half"), ("anyres", 37, 200, 56, 4, "clip"),
                 ("anyres", 384, 384, 384, 6, "half"), ("anyres", 640, 480, 384, 6, "half"),
                 ("anyres", 1000, 31, 384, 6, "clip"), ("anyres", 1001, 999, 384, 6, "clip"),
                 ("square", 60, 40, 28, 3, "clip"), ("square", 40, 60, 28, 3, "half"), ("square", 300, 700, 384, 6, "clip"),
                 ("square", 641, 480, 384, 6, "half"), ("square", 500, 500, 384, 6, "clip"),
                 ("square", 2000, 4, 56, 4, "clip")]:
        out = pixels(*case)
        lines.append(" ".join(map(str, case)) + f" {len(out) if case[0] == 'anyres' else 1} "
                     + sha(out.tobytes() if case[0] == "anyres" else out[:1].tobytes()))
    (ANYRES / "pixels.txt").write_text("\n".join(lines) + "\n")
    (ANYRES / "view28.f32").write_bytes(pixels("anyres", 60, 40, 28, 3, "clip").tobytes())


# ---- Pictures ---------------------------------------------------------------------------------------------------------

def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(w, h, depth, kind, rows, before=b"", interlace=0):
    head = struct.pack(">IIBBBBB", w, h, depth, kind, 0, 0, interlace)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", zlib.compress(rows, 9))
            + chunk(b"IEND", b""))


def flipped(data, at):
    """One bit wrong: the last byte of IDAT's checksum stands at -13."""
    out = bytearray(data)
    out[at] ^= 1
    return bytes(out)


def adam7(a):
    out = b""
    for x0, y0, dx, dy in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]:
        part = a[y0::dy, x0::dx]
        out += b"".join(b"\0" + row.tobytes() for row in part if part.shape[1])
    return out


def saved(image, kind, **options):
    f = io.BytesIO()
    image.save(f, kind, **options)
    return f.getvalue()


def exif(turn):
    e = Image.Exif()
    e[0x0112] = turn
    return e


def smooth(w, h, channels):
    """Soft colours, so that a lossy coder keeps them and chroma upsampling has something to do."""
    y, x, c = np.meshgrid(np.arange(h), np.arange(w), np.arange(channels), indexing="ij")
    return (128 + 90 * np.sin(x * (c + 2) / 9 + c) + 37 * np.cos(y / (3 + c))).astype(np.uint8)


def make_pictures():
    rgb, small = Image.fromarray(smooth(37, 23, 3)), Image.fromarray(smooth(13, 9, 3))
    rgba = Image.fromarray(smooth(13, 9, 4))
    deep = (smooth(13, 9, 4).astype(np.uint16) * 257 + pattern(13, 9)[..., :1]).astype(">u2")
    lines16 = lambda a: b"".join(b"\0" + row.tobytes() for row in a)
    files = {f"turn{i}.jpg": saved(small, "JPEG", quality=95, subsampling=0, exif=exif(i)) for i in range(1, 9)}
    files |= {
        "s444.jpg": saved(rgb, "JPEG", quality=90, subsampling=0), "s420.jpg": saved(rgb, "JPEG", subsampling=2),
        "s422.jpg": saved(rgb, "JPEG", subsampling=1), "gray.jpg": saved(rgb.convert("L"), "JPEG"),
        "cmyk.jpg": saved(Image.fromarray(smooth(13, 9, 4), "CMYK"), "JPEG", quality=95),
        "progressive.jpg": saved(rgb, "JPEG", progressive=True), "one_pixel.jpg": saved(small.crop((0, 0, 1, 1)), "JPEG"),
        "restart.jpg": saved(rgb, "JPEG", restart_marker_blocks=2),
        "rgb.png": saved(small, "PNG"), "rgba.png": saved(rgba, "PNG"), "gray.png": saved(small.convert("L"), "PNG"),
        "gray_alpha.png": saved(rgba.convert("LA"), "PNG"), "bit.png": saved(small.convert("1"), "PNG"),
        "palette.png": saved(small.quantize(11), "PNG"),
        "palette_trns.png": saved(small.quantize(5), "PNG", transparency=bytes([0, 80, 255, 200])),
        "rgb_trns.png": saved(Image.fromarray(np.repeat(smooth(13, 9, 1) // 64 * 64, 3, 2)), "PNG", transparency=(64,) * 3),
        "rgb16.png": png(13, 9, 16, 2, lines16(deep[..., :3])), "rgba16.png": png(13, 9, 16, 6, lines16(deep)),
        "gray16.png": png(13, 9, 16, 0, lines16(deep[..., 0])),
        "adam7.png": png(13, 9, 8, 6, adam7(smooth(13, 9, 4)), interlace=1),
        "turn6.png": saved(small, "PNG", exif=exif(6)),
        "bad_orientation.png": saved(small, "PNG", exif=exif(77)),
        "lossy.webp": saved(rgb, "WEBP", quality=80), "lossless.webp": saved(small, "WEBP", lossless=True),
        "lossy_alpha.webp": saved(rgba, "WEBP", quality=80), "turn8.webp": saved(small, "WEBP", exif=exif(8)),
        "lossless_alpha.webp": saved(rgba, "WEBP", lossless=True, exact=True),
        "animated.webp": saved(rgba, "WEBP", save_all=True, append_images=[rgba.rotate(180)], lossless=True, exact=True),
    }
    good = list(files)
    plain = files["rgb.png"]
    files |= {
        "bad_crc.png": flipped(plain, -13), "bad_zlib.png": flipped(plain, -20), "cut.png": plain[:-12],
        "no_data.png": plain[:plain.index(b"IDAT") - 4] + chunk(b"IEND", b""),
        "huge.png": png(50000, 50000, 8, 2, b""), "long.png": png(1, 0x7fffffff, 1, 0, b""),
        "cut.jpg": files["s420.jpg"][:-60], "cut.webp": files["lossy.webp"][:-9], "empty.bin": b"",
        "gif.bin": saved(small, "GIF"), "text.bin": b"this is not a picture\n",
    }
    lines = []
    for name in sorted(files):
        (CORPUS / name).write_bytes(files[name])
        if name in good:
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(files[name])))
            if image.mode == "I;16":  # Pillow would clip at 255; the library keeps the upper byte
                image = Image.fromarray((np.array(image) >> 8).astype(np.uint8))
            layer = image.convert("RGBA")
            white = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
            drop = image.convert("RGB")
            lines.append(f"{name} {image.width} {image.height} {sha(white.tobytes())} {sha(drop.tobytes())}")
        else:
            lines.append(f"{name} 0 0 refused refused")
    (IMAGE / "expected.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    rng = random.Random(1)
    make_resize(rng)
    make_plans(rng)
    make_pixels()
    make_pictures()
