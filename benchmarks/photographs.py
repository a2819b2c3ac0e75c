"""Photographs for networks that look at some: crops of the few that come with two Python packages.

    pip install --no-deps scikit-image scikit-learn

A source for `--data`: ``photographs:for_nsfw`` gives 1,024 of 224 × 224, in the preprocessing of open-nsfw.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from PIL import Image
from third_party import package

from onnxprune.runtime import Array

SKIMAGE = "astronaut brick chelsea coffee coins grass gravel motorcycle_left rocket retina page".split()
SIDE = 224
SMALLEST = 96
COUNT, BATCH = 1024, 32


def photographs() -> list[Image.Image]:
    """Return the installed photographs, in colour."""
    found = [p for p in (package("skimage") / "data").iterdir() if p.stem in SKIMAGE]
    found += (package("sklearn") / "datasets" / "images").glob("*.jpg")
    return [Image.open(path).convert("RGB") for path in sorted(found, key=lambda path: path.name)]


@cache
def crops(count: int, seed: int = 0) -> Array:
    """Return parts of photographs, of many sizes, some the other way round; ``uint8 [N, 224, 224, 3]``."""
    rng, whole = np.random.default_rng(seed), photographs()
    found = []
    for number in range(count):
        picture = whole[number % len(whole)]
        side = int(rng.integers(SMALLEST, min(picture.size) + 1))
        left, top = (int(rng.integers(0, size - side + 1)) for size in picture.size)
        pixels = np.asarray(picture.resize((SIDE, SIDE), box=(left, top, left + side, top + side)))
        found.append(pixels[:, ::-1] if rng.random() < 0.5 else pixels)
    return np.stack(found)


def for_nsfw() -> Iterator[tuple[dict[str, Array], None]]:
    """Yield blue, green and red, less the mean of ImageNet, channels last."""
    for part in np.split(crops(COUNT), COUNT // BATCH):
        yield {"input:0": part[..., ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)}, None
