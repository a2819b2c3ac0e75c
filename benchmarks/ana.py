"""The time `ana` takes, beside that of a session per configuration and a full forward pass each.

    python benchmarks/ana.py
    python benchmarks/ana.py MODEL --data DATA --metric kl --samples 256 --every 4

Both ways measure the same configurations with the same number of threads, group by group in turn; what is
compared is processor time, which other programs disturb least. The ideal is what the multiply-accumulates
behind the first weight of a group would take at the speed of the full forward pass, with nothing else around.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from onnxprune.channels import Channels, Group, find_channels
from onnxprune.curves import Examination, measure
from onnxprune.data import open_data
from onnxprune.graph import load
from onnxprune.importance import score
from onnxprune.masks import keep_masks, masked
from onnxprune.metrics import baseline_outputs, evaluate, get_metric
from onnxprune.runtime import Session, sample_feeds
from onnxprune.split import split

BUNDLED = Path(__file__).parents[1] / "models" / "mnist_cnn.onnx"
RATIOS = [tenths / 10 for tenths in range(1, 10)]

R = TypeVar("R")
Removed = Mapping[str, Sequence[int]]


def main() -> None:
    options = read_options()
    channels = find_channels(load(options.model))
    session = Session(channels.model.proto, threads=options.threads)
    examination = examine(session, options)
    full, _ = timed(lambda: baseline_outputs(session, examination.dataset, batch_size=examination.batch_size))
    print(f"{'group':32}{'naive s':>9}{'ana s':>9}{'ideal s':>9}{'ratio':>8}{'difference':>12}")
    rows = []
    for group in [g for g in channels.groups if not g.optional][:: options.every]:
        variants = variants_of(channels, group)
        naive, expected = timed(lambda: measure_naively(channels, examination, variants))  # noqa: B023
        split_, values = timed(lambda: measure(channels, examination, variants))  # noqa: B023
        ideal = full * share_behind(channels, variants) * len(variants)
        difference = float(np.abs(np.subtract(values, expected)).max() / max(np.abs(expected).max(), 1e-30))
        rows.append((naive, split_, ideal, difference))
        show(group.name, *rows[-1])
    naive, split_, ideal, _ = (sum(column) for column in zip(*rows, strict=True))
    show("all", naive, split_, ideal, max(row[3] for row in rows))
    print(f"{ideal / split_:.0%} of the ideal")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=str(BUNDLED))
    parser.add_argument("--data", help="as for `ana`; random inputs by default, MNIST for the bundled model")
    parser.add_argument("--metric", default="kl")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=1, help="measure every n-th group only")
    return parser.parse_args()


def examine(session: Session, options: argparse.Namespace) -> Examination:
    """Say on what and by what the configurations are measured."""
    data = options.data or ("onnxprune.datasets:mnist_test" if options.model == str(BUNDLED) else None)
    random = sample_feeds(session.inputs, batch=options.samples)[0] if data is None else {}
    dataset = open_data(data or random, session.inputs, session.outputs).take(options.samples)
    examination = Examination(
        dataset,
        get_metric(options.metric),
        batch_size=session.fixed_batch or options.batch_size,
        whole_batches=session.fixed_batch is not None,
        threads=options.threads,
    )
    outputs = baseline_outputs(session, dataset, batch_size=examination.batch_size)
    return replace(examination, baseline=outputs if examination.metric.uses_baseline else None)


def variants_of(channels: Channels, group: Group) -> list[Removed]:
    """Return the removed channels at every ratio, the least important first."""
    order = np.argsort(score(channels, group, "l2"), kind="stable")
    counts = {min(group.size - 1, round(ratio * group.size)) for ratio in RATIOS} - {0}
    return [{group.name: order[:count].tolist()} for count in sorted(counts)]


def measure_naively(channels: Channels, exam: Examination, variants: Sequence[Removed]) -> list[float]:
    """Build a session for every configuration and run the whole network on the whole data set."""
    return [
        evaluate(
            Session(masked(channels, variant).proto, threads=exam.threads),
            exam.dataset,
            exam.metric,
            batch_size=exam.batch_size,
            baseline=exam.baseline,
        )
        for variant in variants
    ]


def share_behind(channels: Channels, variants: Sequence[Removed]) -> float:
    """Return the fraction of the multiply-accumulates behind the first weight that a group touches."""
    after = split(channels.model, channels.typing.shapes, set(keep_masks(channels, variants[0]))).after
    made = {output for node in after.nodes for output in node.output}
    nodes = channels.model.nodes
    macs = [(nodes[w.node].output[0], math.prod(d.size for d in w.dims)) for w in channels.typing.work]
    return sum(n for output, n in macs if output in made) / sum(n for _, n in macs)


def timed(work: Callable[[], R]) -> tuple[float, R]:
    """Return how many seconds of processor time some work takes, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def show(name: str, naive: float, split_: float, ideal: float, difference: float) -> None:
    print(f"{name[:31]:32}{naive:9.2f}{split_:9.2f}{ideal:9.2f}{naive / split_:7.2f}x{difference:12.1e}")


if __name__ == "__main__":
    main()
