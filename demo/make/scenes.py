"""Draws the demo's pictures and asks questions about them.

A scene is a list of things standing in different cells of a 3 x 3 grid: coloured shapes, at most one printed word
and at most one printed number. Everything follows from a random.Random, so that a seed names a picture.
"""
import math
from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont

from views import VIEW, layout

KINDS = ["circle", "square", "triangle", "rectangle", "star", "cross"]
COLORS = {
    "red": (214, 40, 40), "green": (46, 150, 60), "blue": (40, 84, 214), "yellow": (240, 208, 40),
    "orange": (244, 132, 30), "purple": (142, 52, 172), "black": (24, 24, 24), "gray": (138, 138, 138),
}
SIZES = ["small", "large"]
POSITIONS = ["top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right"]
WORDS = ("cat dog sun car bus cup hat key map pen tree fish bird book door milk moon rain ship lamp "
         "frog cake leaf snow bear wolf boat road king ring salt hand foot nest rose corn duck apple house bread").split()
NUMBER_WORDS = ["no", "one", "two", "three"]
DESCRIBE = ["Describe the picture.", "What is in the picture?", "Describe this picture in detail."]
FONT_DIR = "/usr/share/fonts/truetype/dejavu"
SUPERSAMPLE = 3
GAP = 2  # pixels left free between two things


@dataclass
class Shape:
    kind: str
    color: str
    size: str
    cell: int
    box: tuple

    def name(self, size=False):
        return f"{self.size} {self.color} {self.kind}" if size else f"{self.color} {self.kind}"

    def center(self):
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass
class Text:
    kind: str  # "word" or "number"
    text: str
    cell: int
    box: tuple
    px: int
    font: str
    glyphs: list = field(default_factory=list)  # (character, x, y) of each glyph's middle


@dataclass
class Scene:
    width: int
    height: int
    background: tuple
    shapes: list
    texts: list

    def text(self, kind):
        return next((t for t in self.texts if t.kind == kind), None)


_fonts = {}


def font(name, px):
    if (name, px) not in _fonts:
        _fonts[name, px] = ImageFont.truetype(f"{FONT_DIR}/{name}.ttf", px)
    return _fonts[name, px]


def free(box, others):
    return all(box[2] + GAP <= o[0] or o[2] + GAP <= box[0] or box[3] + GAP <= o[1] or o[3] + GAP <= box[1]
               for o in others)


def cell_box(rng, cell, w, h, width, height):
    """A w x h box whose middle is in the inner part of the cell, inside the picture."""
    cw, ch = width / 3, height / 3
    x = (cell % 3 + 0.5 + rng.uniform(-0.16, 0.16)) * cw - w / 2
    y = (cell // 3 + 0.5 + rng.uniform(-0.16, 0.16)) * ch - h / 2
    x = min(max(x, 1), width - w - 1)
    y = min(max(y, 1), height - h - 1)
    return x, y, x + w, y + h


def nudge(start, length, cuts, low, high):
    """Moves a line of text off the seam between two tiles, if its middle may stay between low and high."""
    for c in cuts:
        if start < c < start + length:
            options = [s for s in (math.floor(c - length), math.ceil(c)) if low < s + length / 2 < high]
            return min(options, key=lambda s: abs(s - start), default=start)
    return start


def off_seams(x, y, w, h, cell, width, height):
    lay = layout(width, height)
    xs = [(k * VIEW - lay.x) * width / lay.width for k in range(1, lay.cols)]
    ys = [(k * VIEW - lay.y) * height / lay.height for k in range(1, lay.rows)]
    cw, ch = width / 3, height / 3
    return (nudge(x, w, xs, cell % 3 * cw, (cell % 3 + 1) * cw), nudge(y, h, ys, cell // 3 * ch, (cell // 3 + 1) * ch))


def place_text(rng, kind, cell, width, height, text=None):
    digits = rng.randint(1, 3)
    drawn = rng.choice(WORDS) if kind == "word" else str(rng.randrange(10 ** (digits - 1), 10 ** digits))
    text = text or drawn
    unit = min(width, height) / 128
    large = rng.random() < 0.5
    px = round((18 if large else 10) * unit)
    name = "DejaVuSans-Bold"
    f = font(name, px)
    l, t, r, b = f.getbbox(text)
    x0, y0, _, _ = cell_box(rng, cell, r - l, b - t, width, height)
    x0, y0 = off_seams(int(x0), int(y0), r - l, b - t, cell, width, height)
    item = Text(kind, text, cell, (x0, y0, x0 + r - l, y0 + b - t), px, name)
    for i, c in enumerate(text):
        left, right = f.getlength(text[:i]), f.getlength(text[:i + 1])
        item.glyphs.append((c, x0 - l + (left + right) / 2, y0 + (b - t) / 2))
    return item


def place_shape(rng, kind, color, size, cell, width, height):
    unit = min(width, height) / 128
    s = rng.uniform(31, 37) * unit if size == "large" else rng.uniform(15, 18) * unit
    w, h = s, s
    if kind == "rectangle":
        w, h = (1.15 * s, 0.55 * s) if rng.random() < 0.5 else (0.55 * s, 1.15 * s)
    if kind in ("star", "cross", "triangle"):
        w, h = 1.08 * s, 1.08 * s
    return Shape(kind, color, size, cell, cell_box(rng, cell, w, h, width, height))


def random_scene(rng, width, height, most=3):
    """One to three shapes, each of another colour, and in more than half of the pictures a word, a number or both."""
    colors = rng.sample(list(COLORS), most)
    cells = list(range(9))
    rng.shuffle(cells)
    tint = rng.randrange(236, 256)
    scene = Scene(width, height, tuple(min(255, tint + rng.randrange(-10, 11)) for _ in range(3)), [], [])
    boxes = []
    for kind, chance in (("word", 0.6), ("number", 0.6)):
        if rng.random() < chance:
            item = place_text(rng, kind, cells[-1], width, height)
            if free(item.box, boxes):
                cells.pop()
                scene.texts.append(item)
                boxes.append(item.box)
    for color in colors[:rng.randint(1, most)]:
        kind, size = rng.choice(KINDS), rng.choice(SIZES)
        for cell in cells:
            shape = place_shape(rng, kind, color, size, cell, width, height)
            if free(shape.box, boxes):
                cells.remove(cell)
                scene.shapes.append(shape)
                boxes.append(shape.box)
                break
    scene.shapes.sort(key=lambda s: s.cell)
    scene.texts.sort(key=lambda t: t.cell)
    return scene


def dense_scene(rng, width, height):
    """Every cell filled, half of them with text and some of the text meaningless: for the lessons in seeing only."""
    tint = rng.randrange(225, 256)
    scene = Scene(width, height, tuple(min(255, tint + rng.randrange(-10, 11)) for _ in range(3)), [], [])
    boxes = []
    for cell in rng.sample(range(9), 9):
        if rng.random() < 0.5:
            word = rng.random() < 0.6
            letters = "abcdefghijklmnopqrstuvwxyz" if word else "0123456789"
            text = "".join(rng.choice(letters) for _ in range(rng.randint(1, 5 if word else 3)))
            item = place_text(rng, "word" if word else "number", cell, width, height,
                              text if rng.random() < 0.25 else None)
        else:
            item = place_shape(rng, rng.choice(KINDS), rng.choice(list(COLORS)), rng.choice(SIZES), cell, width, height)
        if free(item.box, boxes):
            boxes.append(item.box)
            (scene.texts if isinstance(item, Text) else scene.shapes).append(item)
    return scene


def outline(kind, box):
    x0, y0, x1, y1 = box
    if kind == "triangle":
        return [((x0 + x1) / 2, y0), (x1, y1), (x0, y1)]
    if kind == "cross":
        a, b = (x1 - x0) * 0.33, (y1 - y0) * 0.33
        return [(x0 + a, y0), (x1 - a, y0), (x1 - a, y0 + b), (x1, y0 + b), (x1, y1 - b), (x1 - a, y1 - b),
                (x1 - a, y1), (x0 + a, y1), (x0 + a, y1 - b), (x0, y1 - b), (x0, y0 + b), (x0 + a, y0 + b)]
    cx, cy, r = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2
    return [(cx + r * q * math.sin(i * math.pi / 5), cy - r * q * math.cos(i * math.pi / 5))
            for i in range(10) for q in [1 if i % 2 == 0 else 0.42]]


def draw(scene, rng):
    k = SUPERSAMPLE
    big = Image.new("RGB", (scene.width * k, scene.height * k), scene.background)
    pen = ImageDraw.Draw(big)
    for s in scene.shapes:
        fill = tuple(min(255, max(0, c + rng.randrange(-10, 11))) for c in COLORS[s.color])
        box = tuple(v * k for v in s.box)
        if s.kind == "circle":
            pen.ellipse(box, fill=fill)
        elif s.kind in ("square", "rectangle"):
            pen.rectangle(box, fill=fill)
        else:
            pen.polygon(outline(s.kind, box), fill=fill)
    picture = big.reduce(k)
    pen = ImageDraw.Draw(picture)
    for t in scene.texts:
        f = font(t.font, t.px)
        l, top, _, _ = f.getbbox(t.text)
        pen.text((t.box[0] - l, t.box[1] - top), t.text, font=f, fill=(16, 16, 24))
    return picture


# Questions. Each function returns (question, answers, type) or None where the scene has nothing to ask about.

def article(noun):
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def place(cell):
    return "in the center" if POSITIONS[cell] == "center" else f"at the {POSITIONS[cell]}"


def unique(scene, key):
    """Shapes that nothing else in the scene can be confused with under this key."""
    keys = [key(s) for s in scene.shapes]
    return [s for s, k in zip(scene.shapes, keys) if keys.count(k) == 1]


def reference(rng, scene):
    """(words, shape) for a shape that its colour or its kind alone names."""
    by_kind = unique(scene, lambda s: s.kind)
    if by_kind and rng.random() < 0.5:
        s = rng.choice(by_kind)
        return s.kind, s
    s = rng.choice(scene.shapes)
    return f"{s.color} shape", s


def ask_shape(rng, scene):
    by_color = unique(scene, lambda s: s.color)
    if by_color and rng.random() < 0.5:
        s = rng.choice(by_color)
        q = rng.choice([f"What shape is {s.color}?", f"What is the {s.color} shape?"])
    else:
        s = rng.choice(scene.shapes)
        q = f"What shape is {place(s.cell)}?"
    return q, [s.kind], "shape"


def ask_color(rng, scene):
    by_kind = unique(scene, lambda s: s.kind)
    if by_kind and rng.random() < 0.5:
        s = rng.choice(by_kind)
        q = rng.choice([f"What color is the {s.kind}?", f"What is the color of the {s.kind}?"])
    else:
        s = rng.choice(scene.shapes)
        q = f"What color is the shape {place(s.cell)}?"
    return q, [s.color], "color"


def ask_count(rng, scene):
    n = len(scene.shapes)
    return "How many shapes are there?", [str(n), NUMBER_WORDS[n]], "count"


def ask_exists(rng, scene):
    yes = rng.random() < 0.5
    choice = rng.random()
    if choice < 0.15:
        kind = rng.choice(["word", "number"])
        return f"Is there a {kind}?", ["yes" if scene.text(kind) else "no"], "exists"
    if choice < 0.55:
        have, every = {s.color + " shape" for s in scene.shapes}, [c + " shape" for c in COLORS]
    else:
        have, every = {s.kind for s in scene.shapes}, KINDS
    name = rng.choice([n for n in every if (n in have) == yes])
    return f"Is there {article(name)}?", ["yes" if yes else "no"], "exists"


def ask_size(rng, scene):
    name, s = reference(rng, scene)
    q = rng.choice([f"Is the {name} small or large?", f"What size is the {name}?"])
    return q, [s.size], "size"


def ask_position(rng, scene):
    if scene.texts and rng.random() < 0.3:
        t = rng.choice(scene.texts)
        return f"Where is the {t.kind}?", [POSITIONS[t.cell]], "position"
    name, s = reference(rng, scene)
    return f"Where is the {name}?", [POSITIONS[s.cell]], "position"


def ask_word(rng, scene):
    t = scene.text("word")
    return t and (rng.choice(["What word is written?", "Read the word."]), [t.text], "word")


def ask_number(rng, scene):
    t = scene.text("number")
    return t and (rng.choice(["What number is shown?", "Read the number."]), [t.text], "number")


ASK = {"shape": ask_shape, "color": ask_color, "count": ask_count, "exists": ask_exists, "size": ask_size,
       "position": ask_position, "word": ask_word, "number": ask_number}


def description(scene):
    n = len(scene.shapes)
    out = [f"There is one shape." if n == 1 else f"There are {NUMBER_WORDS[n]} shapes."]
    things = [(s.cell, f"A {s.name(size=True)} is {place(s.cell)}.") for s in scene.shapes]
    for t in scene.texts:
        what = f'The word "{t.text}"' if t.kind == "word" else f"The number {t.text}"
        things.append((t.cell, f"{what} is {place(t.cell)}."))
    return " ".join(out + [sentence for _, sentence in sorted(things)])


def describe(rng, scene):
    return rng.choice(DESCRIBE), [description(scene)], "describe"


def questions(rng, scene, types):
    """One question of each wanted type, where the scene allows it, without repetition."""
    seen, out = set(), []
    for t in types:
        qa = ASK[t](rng, scene)
        if qa and qa[0] not in seen:
            seen.add(qa[0])
            out.append(qa)
    return out
