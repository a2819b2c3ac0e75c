"""Predicted and measured latency of plans for trained networks, at −20, −40 and −60 % of the time.

    python benchmarks/latency.py [--threads 1] [--backend NAME] [--reductions 0.5] [PATTERN…]
    python benchmarks/latency.py --backend openvino
    python benchmarks/latency.py --backend 'cmd:python benchmarks/time_model.py {model} {threads}'
    python benchmarks/latency.py --defaults [FILE…]

Each plan is timed side by side with the original when it is made, and once more afterwards by itself, in a
measurement the plan had no share in. The last lines are the median over the networks of the prediction's
error against that second measurement, how many plans reached their reduction (within 2 %), and how many were
slower than one for a smaller reduction (by more than 2 %).

`--defaults` prunes with `--reduce-macs 0.3` and nothing else, at several steps of rounding, and times the
dense models side by side with the original: the fastest round of each.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path

from third_party import TRAINED, package

import onnxprune
from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.errors import OnnxpruneError
from onnxprune.ir import Model
from onnxprune.passes import Prune, prune_options
from onnxprune.search.latency_model import Stopwatch, opened_table

MODELS = Path(__file__).resolve().parent.parent / "models"
REDUCTIONS = (0.2, 0.4, 0.6)
STEPS = (8, 16, 32)
NEAR = 0.02
SHAPES = {
    "*_det_*": {"x": (1, 3, 320, 320)},
    "*_rec_*": {"x": (1, 3, 48, 320)},
    "*_cls_*": {"x": (1, 3, 48, 192)},
}


def networks(patterns: list[str]) -> list[Path]:
    found = sorted(MODELS.glob("*.onnx"))
    for name, pattern in TRAINED.items():
        found += sorted(package(name).glob(pattern))
    return [p for p in found if any(fnmatch(p.stem, pattern) for pattern in patterns)]


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    return next((s for pattern, s in SHAPES.items() if fnmatch(path.stem, pattern)), {})


def cut(model: Model) -> tuple[Channels, dict[str, list[int]]]:
    """Return the channels of a sparse model, and those that its plan removes."""
    plan = stored_plan(model)
    assert plan is not None
    channels = find_channels(model, given=plan.input_shapes or None).without(plan.within)
    return channels, {name: list(gone) for name, gone in plan.removed.items()}


def plans(path: Path, options: argparse.Namespace, table: Path) -> Iterator[tuple[float, float, float]]:
    """Print each plan; yield the reduction, the error of its prediction, and its time measured again."""
    model, backend = onnxprune.load(path), options.backend
    for reduction in options.reductions:
        step = Prune(
            reduce_latency=reduction,
            threads=options.threads,
            input_shapes=shapes_of(path),
            latency_backend=backend,
            latency_table=table,
        )
        try:
            result = step(model)
        except OnnxpruneError as error:
            print(f"{path.stem:32}{-reduction:6.0%}  {error}", flush=True)
            continue
        channels, removed = cut(result.model)
        fresh = opened_table(None, backend, threads=options.threads)
        (again,) = Stopwatch(channels, *fresh, options.threads).time([removed])
        facts = result.facts
        predicted = facts["latency_ms_predicted"] / facts["latency_ms_before"]
        off = abs(predicted / again - 1)
        print(
            f"{path.stem:32}{-reduction:6.0%}  predicted {predicted - 1:7.1%}"
            f"  measured {-facts['latency_reduction']:7.1%}  again {again - 1:7.1%}"
            f"  of {facts['latency_ms_before']:8.2f} ms  off by {off:5.1%}"
            f"  MACs {facts['macs'] / facts['macs_before'] - 1:7.1%}  steps {facts['latency_steps']}",
            flush=True,
        )
        yield reduction, off, again


def time_plans(options: argparse.Namespace) -> None:
    found = {}
    for path in networks(options.patterns or ["*"]):
        with tempfile.TemporaryDirectory() as folder:
            found[path.stem] = list(plans(path, options, Path(folder) / "latency.json"))
    kept = [rows for rows in found.values() if rows]
    medians = [statistics.median(off for _, off, _ in rows) for rows in kept]
    each = [row for rows in kept for row in rows]
    reached = sum(1 - again >= reduction - NEAR for reduction, _, again in each)
    slower = sum(b[2] > a[2] * (1 + NEAR) for rows in kept for a, b in pairwise(rows))
    print(f"off by {statistics.median(medians):.1%} (median over {len(medians)} networks)")
    print(f"reached by {reached} of {len(each)} plans; slower than a smaller reduction: {slower}")


def time_defaults(options: argparse.Namespace) -> None:
    """Print the time that is left with several default steps, in parts of the original's."""
    columns: dict[int, list[float]] = {step: [] for step in STEPS}
    for path in [Path(p) for p in options.patterns] or networks(["*"]):
        model, row = onnxprune.load(path), []
        for step in STEPS:
            prune_options.DEFAULT_ROUND_TO = step
            pruned = Prune(reduce_macs=0.3, input_shapes=shapes_of(path))(model).model
            channels, removed = cut(pruned)
            row.append((channels, removed))
        left = [Stopwatch.here(c, options.threads).time([removed])[0] for c, removed in row]
        for step, ratio in zip(STEPS, left, strict=True):
            columns[step].append(ratio)
        print(f"{path.stem:32}" + "".join(f"{ratio:8.2f}" for ratio in left), flush=True)
    medians = "".join(f"{statistics.median(column):8.2f}" for column in columns.values())
    print(f"{'median, rounded to ' + ', '.join(map(str, STEPS)):32}{medians}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend")
    parser.add_argument("--reductions", type=float, nargs="+", default=REDUCTIONS)
    parser.add_argument("--defaults", action="store_true")
    options = parser.parse_args()
    (time_defaults if options.defaults else time_plans)(options)


if __name__ == "__main__":
    main()
