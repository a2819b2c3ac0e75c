"""Losses of the strategies at −30, −50 and −70 % MACs, without any training.

    python benchmarks/plans.py [mnist_cnn fashion_mobile rec] [--folder plans] [--samples 256]

Plans are made with calibration samples and judged on others: by the divergence from the original's outputs,
which needs no labels, and by the task of the network (accuracy on digits and clothes, share of lines read
without a mistake).
``sensitivity`` goes by the curves of `ana` alone; ``sensitivity+data`` also measures whole plans on the
calibration samples. Analyses are kept in the folder and used again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lines import characters, lines, read, recogniser

import onnxprune
from onnxprune.decisions.plan import Analysis
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.metrics import baseline_outputs, evaluate, get_metric
from onnxprune.passes import Ana, Prune
from onnxprune.runtime import Array, Session

MODELS = Path(__file__).resolve().parent.parent / "models"
REDUCTIONS = (0.3, 0.5, 0.7)
STRATEGIES = ("uniform", "global", "sensitivity", "sensitivity+data", "search")


@dataclass(frozen=True)
class Case:
    """A network, samples to plan with, others to judge by, and its task."""

    name: str
    model: onnxprune.Model
    calibration: Mapping[str, Any]
    test: Mapping[str, Any]
    quality: Callable[[onnxprune.Model], float]
    shapes: Mapping[str, tuple[int, ...]]


def pictures(name: str, samples: int) -> Case:
    """Return a bundled network; the calibration samples are from its training data."""
    data = f"onnxprune.datasets:{name.partition('_')[0]}"
    model = onnxprune.load(MODELS / f"{name}.onnx")
    session = Session(model.proto)

    def taken(which: str, count: int) -> dict[str, Any]:
        dataset = open_data(f"{data}_{which}", session.inputs, session.outputs).take(count)
        batches = list(dataset.batches(count))
        return {"image": batches[0].inputs["image"], "labels": batches[0].targets["labels"]}

    test = taken("test", 1000)
    calibration = {"image": taken("train", samples)["image"]}
    return Case(name, model, calibration, test, lambda m: measured(m, model, test, "top1"), {})


def recognised(samples: int) -> Case:
    """Return PP-OCR's recogniser; calibration and test lines differ in letters."""
    model = onnxprune.load(recogniser())
    calibration, _ = lines(samples, seed=1)
    test, texts = lines(100, seed=2)
    shape = (1, *test.shape[1:])
    return Case(
        "rec", model, {"x": calibration}, {"x": test}, lambda m: exactly(m, test, texts), {"x": shape}
    )


def exactly(model: onnxprune.Model, test: Array, texts: list[str]) -> float:
    """Return the share of lines that are read without a mistake."""
    session, letters = Session(model.proto), characters(model)
    found: list[str] = []
    for start in range(0, len(test), 16):
        (output,) = session.run({session.inputs[0].name: test[start : start + 16]}).values()
        found += read(output, letters)
    return float(np.mean([a == b for a, b in zip(found, texts, strict=True)]))


def measured(model: onnxprune.Model, original: onnxprune.Model, data: Mapping[str, Any], name: str) -> float:
    session, before, metric = Session(model.proto), Session(original.proto), get_metric(name)
    dataset = open_data(dict(data), session.inputs, session.outputs)
    known = baseline_outputs(before, dataset, batch_size=16) if metric.uses_baseline else None
    return evaluate(session, dataset, metric, batch_size=16, baseline=known)


def analysed(case: Case, folder: Path) -> Analysis:
    """Measure the curves, or go on with those that are there."""
    file = folder / f"{case.name}.json"
    options: dict[str, Any] = {"input_shapes": case.shapes, "batch_size": 16}
    step = Ana(data=case.calibration, metric="kl", file=file, resume=True, force=True, **options)
    analysis = step(case.model).analysis
    assert analysis is not None
    return analysis


def planned(
    case: Case, analysis: Analysis, strategy: str, reduction: float, evaluations: int
) -> onnxprune.Model:
    name, _, data = strategy.partition("+")
    options: dict[str, Any] = {"input_shapes": case.shapes, "batch_size": 16, "metric": "kl"}
    if data or name == "search":
        options |= {"data": case.calibration, "evaluations": evaluations}
    if name == "sensitivity":
        options |= {"analysis": analysis}
    return Prune(reduce_macs=reduction, strategy=name, **options)(case.model).model


def rows(case: Case, analysis: Analysis, strategies: list[str], evaluations: int) -> None:
    print(f"{case.name}: {case.quality(case.model):.3f} as it is", flush=True)
    for reduction in REDUCTIONS:
        for strategy in strategies:
            start = time.monotonic()
            model = planned(case, analysis, strategy, reduction, evaluations)
            seconds = time.monotonic() - start
            kl = measured(model, case.model, case.test, "kl")
            found = f"kl {kl:8.4f}  {case.quality(model):6.3f}  {seconds:6.1f} s"
            print(f"  {-reduction:.0%}  {strategy:18s} {found}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("networks", nargs="*", default=["mnist_cnn", "fashion_mobile", "rec"])
    parser.add_argument("--folder", type=Path, default=Path("plans"))
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES))
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    np.set_printoptions(precision=3)
    for name in options.networks:
        case = recognised(max(16, options.samples // 8)) if name == "rec" else pictures(name, options.samples)
        rows(case, analysed(case, options.folder), options.strategies, options.evaluations)


if __name__ == "__main__":
    main()
