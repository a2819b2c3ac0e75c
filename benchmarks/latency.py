"""Is a plan for a latency as fast as it was said to be? Trained networks, at −20, −40 and −60 % of the time.

    python benchmarks/latency.py [--threads 1] [PATTERN…]

Each plan is timed side by side with the original when it is made, and once more afterwards by itself, in a
measurement the plan had no share in. The last line is the median over the networks of the prediction's error
against that second measurement.
"""

from __future__ import annotations

import argparse
import statistics
from fnmatch import fnmatch
from pathlib import Path

from third_party import TRAINED, package

import onnxprune
from onnxprune.analysis.groups.channels import find_channels
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.errors import PlanError
from onnxprune.passes import Prune
from onnxprune.search.latency import Stopwatch

MODELS = Path(__file__).resolve().parent.parent / "models"
REDUCTIONS = (0.2, 0.4, 0.6)
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


def errors(path: Path, threads: int) -> list[float]:
    """Print what came of each reduction; return how far predictions were off."""
    model = onnxprune.load(path)
    shapes = next((s for pattern, s in SHAPES.items() if fnmatch(path.stem, pattern)), {})
    found = []
    for reduction in REDUCTIONS:
        step = Prune(reduce_latency=reduction, threads=threads, input_shapes=shapes)
        try:
            result = step(model)
        except PlanError as error:
            print(f"{path.stem:32}{-reduction:6.0%}  {error}", flush=True)
            continue
        plan, facts = stored_plan(result.model), result.facts
        assert plan is not None
        watch = Stopwatch(find_channels(model, given=shapes or None).without(plan.within), threads)
        (again,) = watch.time([plan.removed])
        predicted = facts["latency_ms_predicted"] / facts["latency_ms_before"]
        found.append(abs(predicted / again - 1))
        print(
            f"{path.stem:32}{-reduction:6.0%}  predicted {predicted - 1:7.1%}"
            f"  measured {-facts['latency_reduction']:7.1%}  again {again - 1:7.1%}"
            f"  of {facts['latency_ms_before']:8.2f} ms  off by {found[-1]:5.1%}",
            flush=True,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    found = {path.stem: errors(path, options.threads) for path in networks(options.patterns)}
    medians = [statistics.median(e) for e in found.values() if e]
    print(f"off by {statistics.median(medians):.1%} (median over {len(medians)} networks)")


if __name__ == "__main__":
    main()
