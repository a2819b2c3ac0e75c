"""The time `ana` takes, beside that of a session per configuration and a full forward pass each.

    python benchmarks/ana.py
    python benchmarks/ana.py MODEL --data DATA --metric kl --samples 256 --every 4
    python benchmarks/ana.py --workers

All ways measure the same groups on the same samples with the same number of threads, one after the other in
one run; they are compared by processor time, which other programs disturb least. The ideal is the time of
the multiply-accumulates behind the first weight of each group at the speed of the full forward pass, without
overhead: `ana` can be faster, as it cuts removed channels off where the ideal masks them. The
full pass is timed three times, before, between and after the ways of `ana`, and the median counts.
Then plans are made of both analyses, and measured. With `--workers` the exact way is timed with one and with
two single-threaded workers, by the clock, once they have been started.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from onnxprune.analysis.groups.channels import Channels, Group, find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.analysis.groups.selection import select_groups
from onnxprune.decisions.channels.masks import masked
from onnxprune.decisions.plan import Analysis
from onnxprune.evaluate.data import Dataset, open_data
from onnxprune.evaluate.metrics import Answer, Baseline, baseline_outputs, evaluate, get_metric
from onnxprune.evaluate.sensitivity.cut import extract
from onnxprune.evaluate.sensitivity.sample_stages import Examination, MetricAccumulator, Scores, observe
from onnxprune.evaluate.sensitivity.suffix import Suffixes
from onnxprune.ir import load
from onnxprune.passes import Ana, Prune
from onnxprune.runtime import Session, sample_feeds
from onnxprune.scoring.criteria import score
from onnxprune.support.progress import task

BUNDLED = Path(__file__).parents[1] / "models" / "mnist_cnn.onnx"
RATIOS = tuple(tenths / 10 for tenths in range(1, 10))
REDUCTIONS = (0.3, 0.5, 0.7)
MAX_RATIO = 0.9

R = TypeVar("R")
Removed = Mapping[str, Sequence[int]]


def main() -> None:
    options = read_options()
    channels = find_channels(load(options.model))
    session = Session(channels.model.proto, threads=options.threads)
    dataset = open_samples(session, options)
    groups = chosen_groups(channels, options.every)
    print(f"{Path(options.model).name}: {len(groups)} groups, {dataset.count()} samples, {options.metric}")
    if options.workers:
        compare_workers(channels, dataset, groups, options)
        return
    forward = partial(baseline_outputs, session, dataset, batch_size=options.batch_size)
    passes = [timed(forward)]
    exact_s, exact = timed(lambda: analyse(channels, dataset, groups, options))
    passes.append(timed(forward))
    adaptive_s, adaptive = timed(lambda: analyse(channels, dataset, groups, options, mode="adaptive"))
    passes.append(timed(forward))
    baseline = passes[0][1]
    naive_s, expected = timed(lambda: naively(channels, dataset, groups, baseline, options))
    shares = [len(expected[g.name]) * share_behind(channels, g) for g in groups]
    ideal_s = statistics.median(seconds for seconds, _ in passes) * (1 + sum(shares))
    found = [v for g in groups for v in exact.curves[g.name].values]
    wanted = [v for g in groups for v in expected[g.name]]
    difference = float(np.abs(np.subtract(found, wanted)).max() / max(np.abs(wanted).max(), 1e-30))
    points = sum(len(c.values) for c in adaptive.curves.values())
    print(f"naive     {naive_s:8.1f} s   {len(wanted)} points")
    print(f"ideal     {ideal_s:8.1f} s   {naive_s / ideal_s:5.2f}x")
    print(
        f"exact     {exact_s:8.1f} s   {naive_s / exact_s:5.2f}x, {ideal_s / exact_s:.0%} of the ideal, "
        f"largest relative difference {difference:.1e}"
    )
    print(f"adaptive  {adaptive_s:8.1f} s   {naive_s / adaptive_s:5.2f}x, {points} points")
    for reduction in REDUCTIONS:
        compare_plans(channels, dataset, groups, {"exact": exact, "adaptive": adaptive}, reduction, options)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=str(BUNDLED))
    parser.add_argument("--data", help="as for `ana`; random inputs by default, MNIST for the bundled model")
    parser.add_argument("--metric", default="kl")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=1, help="measure every n-th group only")
    parser.add_argument("--workers", action="store_true", help="compare two workers with one")
    return parser.parse_args()


def chosen_groups(channels: Channels, every: int) -> list[Group]:
    """Return the groups that `ana` will measure: every n-th one, and all that share a node with these."""
    names = [g.name for g in channels.groups if not g.optional][::every]
    while len(groups := select_groups(channels, only=names)) > len(names):
        names = [g.name for g in groups]
    return groups


def open_samples(session: Session, options: argparse.Namespace) -> Dataset:
    data = options.data or ("onnxprune.datasets:mnist_test" if options.model == str(BUNDLED) else None)
    random = sample_feeds(session.inputs, batch=options.samples)[0] if data is None else {}
    options.batch_size = session.fixed_batch or options.batch_size
    return open_data(data or random, session.inputs, session.outputs).take(options.samples)


def analyse(
    channels: Channels, dataset: Dataset, groups: Sequence[Group], options: argparse.Namespace, **more: Any
) -> Analysis:
    """Run `ana` on some groups."""
    step = Ana(
        data=dataset,
        metric=options.metric,
        ratios=RATIOS,
        only=[g.name for g in groups],
        batch_size=options.batch_size,
        **{"threads": options.threads, **more},
    )
    analysis = step(load(options.model)).analysis
    assert analysis is not None
    return analysis


def naively(
    channels: Channels,
    dataset: Dataset,
    groups: Sequence[Group],
    baseline: Baseline,
    options: argparse.Namespace,
) -> dict[str, list[float]]:
    """Build a session for every configuration and run the whole network on the whole data set."""
    metric = get_metric(options.metric)
    before = baseline if metric.uses_baseline else None
    found: dict[str, list[float]] = {}
    with task("naive", len(groups)) as progress:
        for group in groups:
            found[group.name] = [
                evaluate(
                    Session(masked(channels, variant).proto, threads=options.threads),
                    dataset,
                    metric,
                    batch_size=options.batch_size,
                    baseline=before,
                )
                for variant in variants_of(channels, group)
            ]
            progress.advance(note=group.name)
    return found


def variants_of(channels: Channels, group: Group) -> list[Removed]:
    """Return the removed channels at every ratio, the least important first."""
    order = np.argsort(score(channels, group, "l2"), kind="stable")
    counts = {min(group.size - 1, round(ratio * group.size)) for ratio in RATIOS} - {0}
    return [{group.name: order[:count].tolist()} for count in sorted(counts)]


def share_behind(channels: Channels, group: Group) -> float:
    """Return the fraction of the multiply-accumulates behind the first weight that a group touches."""
    (at,) = Suffixes(channels).cuts([[group.name]])
    after = extract(channels.model, channels.typing.shapes, at.reached, at.carried)
    made = {output for node in after.nodes for output in node.output}
    macs = [
        (channels.typing.nodes[w.node].output[0], math.prod(d.size for d in w.dims))
        for w in channels.typing.work
    ]
    return sum(n for output, n in macs if output in made) / sum(n for _, n in macs)


def compare_plans(
    channels: Channels,
    dataset: Dataset,
    groups: Sequence[Group],
    analyses: Mapping[str, Analysis],
    reduction: float,
    options: argparse.Namespace,
) -> None:
    """Plan with either analysis, and measure both plans, sample by sample."""
    cost = cost_of(channels).macs
    least = {g.factor: max(1, math.ceil(g.size * (1 - MAX_RATIO))) for g in groups}
    share = reduction * (1 - cost.value(least) / cost.value())
    exact, adaptive = (plan_scores(a, dataset, groups, share, options) for a in analyses.values())
    sign = 1 if get_metric(options.metric).higher_is_better else -1
    worse = sign * float(exact.mean() - adaptive.mean())
    error = 1.96 * float(exact.std()) / math.sqrt(len(exact))
    verdict = "WORSE" if worse > error else "better" if worse < -error else "within"
    print(
        f"plan at −{share:.0%} MACs: {options.metric} {exact.mean():.4g} ± {error:.2g} by the exact "
        f"analysis, {adaptive.mean():.4g} by the adaptive: {verdict}"
    )


def plan_scores(
    analysis: Analysis, dataset: Dataset, groups: Sequence[Group], share: float, options: argparse.Namespace
) -> Scores:
    """Return the score of the pruned network on each sample."""
    model = load(options.model)
    plan = Prune(
        reduce_macs=share, analysis=analysis, only=[g.name for g in groups], round_to=1, max_ratio=MAX_RATIO
    )
    pruned = Session(plan(model).model.proto, threads=options.threads)
    metric = get_metric(options.metric)
    exam = Examination(metric, batch_size=options.batch_size)
    exam = observe(Session(model.proto, threads=options.threads), [dataset], exam)
    tally = MetricAccumulator(metric)
    for index, batch in enumerate(dataset.batches(options.batch_size)):
        made = pruned.run(batch.filled(pruned.fixed_batch or batch.size))
        trimmed = {n: o[: batch.size] for n, o in made.items()}
        remembered = exam.baseline.remembered(index) if exam.baseline else {}
        tally.add(Answer(trimmed, batch.targets, remembered))
    assert tally.scores is not None
    return tally.scores


def compare_workers(
    channels: Channels, dataset: Dataset, groups: Sequence[Group], options: argparse.Namespace
) -> None:
    """Time one and two workers of one thread each.

    The processes have been started, and have imported everything, by a small run before; the analysis of the
    network in each process counts.
    """
    times = {}
    for workers in (1, 2):
        analyse(channels, dataset.take(options.batch_size), groups, options, workers=workers, threads=1)
        start = time.perf_counter()
        analyse(channels, dataset, groups, options, workers=workers, threads=1)
        times[workers] = time.perf_counter() - start
    print(f"1 worker {times[1]:.1f} s, 2 workers {times[2]:.1f} s: {times[1] / times[2]:.2f}x")


def timed(work: Callable[[], R]) -> tuple[float, R]:
    """Return how many seconds of processor time some work takes, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


if __name__ == "__main__":
    main()
