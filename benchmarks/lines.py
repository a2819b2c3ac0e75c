"""Rendered lines of text, and the readings of a recogniser of PP-OCR.

Needs pillow and the DejaVu fonts (apt-get install fonts-dejavu), and the trained recogniser of the package
rapidocr-onnxruntime==1.4.4 (pip install --no-deps).
"""

from __future__ import annotations

import builtins
import importlib.metadata
import keyword
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont

from onnxprune.ir import Model
from onnxprune.runtime import Array

FONTS = Path("/usr/share/fonts/truetype/dejavu")
HEIGHT, WIDTH = 48, 240
WORDS = sorted(
    {n for n in (*dir(builtins), *dir(onnxruntime), *dir(np), *keyword.kwlist) if n.isalnum() and len(n) > 2}
)


def recogniser() -> str:
    """Return the path of the trained network."""
    package = importlib.metadata.distribution("rapidocr-onnxruntime")
    return str(package.locate_file("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"))


def lines(count: int, seed: int) -> tuple[Array, list[str]]:
    """Render identifiers in several faces and sizes.

    Args:
        count: How many.
        seed: The same seed gives the same lines.

    Returns:
        Pictures, ``float32 [N, 3, 48, 240]`` from −1 to 1, with grey behind the text, and the texts.
    """
    random = np.random.default_rng(seed)
    faces = sorted(FONTS.glob("DejaVu*.ttf"))
    texts, pictures = [], []
    while len(texts) < count:
        text = "".join(random.choice(WORDS, random.integers(1, 3)))
        font = ImageFont.truetype(faces[random.integers(len(faces))], int(random.integers(24, 36)))
        if font.getlength(text) < WIDTH - 20:
            texts.append(text)
            pictures.append(_picture(text, font, random))
    return np.stack(pictures), texts


def _picture(text: str, font: ImageFont.FreeTypeFont, random: np.random.Generator) -> Array:
    paper, ink = int(random.integers(200, 256)), int(random.integers(0, 80))
    image = Image.new("L", (WIDTH, HEIGHT), paper)
    place = int(random.integers(2, 10)), HEIGHT // 2
    ImageDraw.Draw(image).text(place, text, fill=ink, font=font, anchor="lm")
    grey = (np.asarray(image, np.float32) + random.normal(0, 4, (HEIGHT, WIDTH))) / 127.5 - 1
    grey[:, place[0] + int(font.getlength(text)) + place[0] :] = 0
    return np.repeat(grey[None], 3, 0).astype(np.float32)


def characters(model: Model) -> list[str]:
    """Return the character of each output of the recogniser; the first one is the blank."""
    return ["", *model.metadata()["character"].splitlines(), " "]


def read(probabilities: Array, alphabet: list[str]) -> list[str]:
    """Read the likeliest path, repetitions being one (A. Graves et al., "CTC", 2006).

    Args:
        probabilities: ``[N, steps, characters]``.
        alphabet: Result of `characters`.
    """
    found = []
    for path in probabilities.argmax(-1):
        starts = np.flatnonzero(np.diff(path, prepend=0))
        found.append("".join(alphabet[k] for k in path[starts]))
    return found
