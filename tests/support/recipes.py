"""A small run: a network of a few channels, stripes to classify, and a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from training_networks import CLASSES, parsed, stripes

from onnxprune.app.recipe import Recipe, read_recipe

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 1, 8, 8] image) => (float[N, 4] logits) {
    c1 = Conv<pads = [1, 1, 1, 1]>(image, w1, b1)
    r1 = Relu(c1)
    c2 = Conv<pads = [1, 1, 1, 1]>(r1, w2, b2)
    r2 = Relu(c2)
    p = GlobalAveragePool(r2)
    f = Flatten(p)
    logits = Gemm<transB = 1>(f, w3, b3)
}"""
RECIPE = """\
model = "net.onnx"
folder = "work"
threads = 1

[data]
train = "train.npz"
val = "val.npz"

[budget]
reduce_macs = 0.5

[schedule]
iterations = 2

[ana]
ratios = [0.5]

[prune]
round_to = 1

[finetune]
epochs = 0

[bench]
runs = 1

[recover]
enabled = false
"""


def network() -> onnx.ModelProto:
    """Two groups of channels, ``c1`` of 8 and ``c2`` of 6, with random weights."""
    random = np.random.default_rng(0)
    shapes = {"w1": (8, 1, 3, 3), "w2": (6, 8, 3, 3), "w3": (CLASSES, 6)}
    weights = {n: random.normal(size=s) / np.sqrt(np.prod(s[1:])) for n, s in shapes.items()}
    biases = {f"b{n[1]}": random.normal(size=s[0]) / 10 for n, s in shapes.items()}
    return parsed(NETWORK, **weights, **biases)


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """Write model, data and recipe; return the recipe's path."""
    onnx.save(network(), folder / "net.onnx")
    for name, samples, seed in (("train", 64, 1), ("val", 32, 2)):
        images, labels = stripes(samples, seed)
        np.savez(folder / f"{name}.npz", image=images, labels=labels)
    path = folder / "recipe.toml"
    path.write_text(text, "utf-8")
    return path


def recipe_in(folder: Path, *overrides: str) -> Recipe:
    """Write all that a run needs and read its recipe."""
    return read_recipe(write_recipe(folder), overrides)


class Told:
    """Remembers the events of a run."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def steps(self, kind: str) -> list[str]:
        """Return the steps that something happened to: ``start``, ``done``, ``kept``."""
        return [e["step"] for e in self.events if e["event"] == kind]
