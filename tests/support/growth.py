"""The time of every pass for each node of a network, at several depths.

    python tests/support/growth.py [--sizes 500,1000,2000,4000,8000] [--only GLOB]

Work in proportion to the number of nodes takes the same time for each of them at every depth. The exit status
is 1 where the largest network takes more than 1.5 times as long for a node as the smallest one of at least
1,000 nodes. Times are processor times, so that other programs do not count.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import sys
import time
from collections.abc import Callable
from functools import cache
from unittest import mock

import numpy as np
import onnx
from deep_networks import plain
from helpers import Net

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.analysis.groups.reach import reach_of, staying_axes
from onnxprune.analysis.groups.selection import select_prunable
from onnxprune.certify import certify
from onnxprune.decisions.plan import Analysis, Curve
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.sensitivity import Executor, SensitivityRequest, SensitivityRun
from onnxprune.evaluate.sensitivity.variants import VariantEvaluator
from onnxprune.ir import Model
from onnxprune.passes import Factorize, Prune, Recover, Rotate, Sparsify, Transform
from onnxprune.passes import factorize as factorize_module
from onnxprune.passes import rotate as rotate_module
from onnxprune.runtime import Session
from onnxprune.scoring.criteria import CRITERIA, comparable
from onnxprune.scoring.criteria.calibration_pass import gather
from onnxprune.scoring.criteria.criteria import NEED_GRADIENTS

LARGEST_RATIO = 1.5
"""Allowed ratio of the time for a node in a network of eight times as many nodes."""
WIDTH = 8
BRANCH = 0.05
"""Scale of the branches of residual blocks: values stay finite at any depth."""

Stage = Callable[[Model], Callable[[], object]]
"""Prepares a model, and returns the work whose time counts."""


def scaled_residual(nodes: int) -> Model:
    """Residual blocks, their branches scaled down."""
    net = Net()
    x = net.cbr(net.input("image", ["N", 3, 4, 4]), WIDTH, 1)
    scale = net.const(np.float32(BRANCH))
    for _ in range(nodes // 8):
        y = net.bn(net.conv(net.cbr(x, WIDTH, 1), WIDTH, 1))
        x = net.relu(net.add(x, net.op("Mul", y, scale)))
    return net.model(net.head(x))


def stream(nodes: int) -> Model:
    """A residual stream of matrix products, which every invertible map commutes with; no axis is spatial."""
    net = Net()
    pixels = net.reshape(net.input("image", ["N", 3, 4, 4]), 0, 48)
    x = net.linear(pixels, WIDTH)
    scale = net.const(np.float32(BRANCH))
    for _ in range(nodes // 7):
        y = net.linear(net.relu(net.linear(x, 2 * WIDTH)), WIDTH)
        x = net.add(x, net.op("Mul", y, scale))
    return net.model(net.linear(x, 10))


NETWORKS: dict[str, Callable[[int], Model]] = {"chain": plain, "residual": scaled_residual, "stream": stream}


def data() -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(0).normal(size=(4, 3, 4, 4)).astype(np.float32)}


def inspect(model: Model) -> Callable[[], object]:
    def work() -> None:
        channels = find_channels(model)
        reach_of(channels)
        staying_axes(channels)
        cost = cost_of(channels)
        for group in channels.groups:
            channels.apart(group)
            sum(term.value({}) for term in cost.macs.of(group.factor))

    return work


def plan_ana(model: Model) -> Callable[[], object]:
    """All that `ana` does before it measures the first group."""
    request = SensitivityRequest(data(), metric="kl", ratios=(0.5,), batch_size=4)

    def work() -> None:
        run = SensitivityRun.open(request, model, Executor(1, "local", 1), 1 << 28)
        run.rehearse()
        run = run.observed()
        VariantEvaluator(run.channels, run.examination, [[name] for name in run.schedules])

    return work


def judge(criterion: str) -> Stage:
    def prepared(model: Model) -> Callable[[], object]:
        channels = find_channels(model)
        session = Session(model.proto)
        samples = open_data(data(), session.inputs, session.outputs)
        return lambda: _judged(channels, criterion, samples)

    return prepared


def _judged(channels: Channels, criterion: str, samples: object) -> None:
    seen = gather(channels, criterion, samples, batch_size=4, threads=1)
    comparable(channels, channels.groups, criterion, 0, seen)


def prune(model: Model) -> Callable[[], object]:
    return lambda: Prune(reduce_macs=0.5, round_to=1)(model)


def _sparse(model: Model) -> Model:
    """Return a copy of a model without half of its channels, which is made once."""
    return _copied(_pruned(model.proto.SerializeToString()))


@cache
def _pruned(content: bytes) -> onnx.ModelProto:
    given = Model(onnx.ModelProto.FromString(content))
    return Prune(reduce_channels=0.5, strategy="uniform", round_to=1)(given).model.proto


@cache
def _built(network: str, nodes: int) -> onnx.ModelProto:
    return NETWORKS[network](nodes).proto


def _copied(proto: onnx.ModelProto) -> Model:
    """Return a model of which nothing is analysed yet."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return Model(copy)


def recover(model: Model) -> Callable[[], object]:
    sparse = _sparse(model)
    step = Recover(model, data=data(), samples=4, batch_size=4, threads=1)
    return lambda: step(sparse)


def transform(model: Model) -> Callable[[], object]:
    sparse = _sparse(model)
    return lambda: Transform(unverified=True)(sparse)


def blocks(model: Model) -> Callable[[], object]:
    """A plan of channels and whole blocks, by curves that are given."""
    groups, found = select_prunable(find_channels(model), (), ())
    curves = {g.name: Curve(g.size, (0.5,), (0.1 + 0.01 * (k % 17),)) for k, g in enumerate(groups)}
    whole = {b.name: Curve(b.size, (1.0,), (0.01 * k,)) for k, b in enumerate(found)}
    analysis = Analysis("", "kl", False, 0.0, curves, blocks=whole)
    return lambda: Prune(reduce_macs=0.5, round_to=1, blocks=len(found) // 4, analysis=analysis)(model)


def rotate(model: Model) -> Callable[[], object]:
    """The rotation without its proof, which runs both models for a fixed time."""

    def work() -> None:
        with mock.patch.object(rotate_module, "_error", return_value=None):
            Rotate(data=data(), samples=4, batch_size=4, threads=1, allow_unchanged=True)(model)

    return work


def factorize(model: Model) -> Callable[[], object]:
    """The split without the comparison of both forms, which takes a fixed time."""

    def work() -> None:
        with mock.patch.multiple(factorize_module, examine=mock.DEFAULT, demand=mock.DEFAULT) as mocked:
            mocked["examine"].return_value.outputs = ()
            Factorize(reduce_macs=0.3, threads=1, allow_unchanged=True)(model)

    return work


def sparsify(model: Model) -> Callable[[], object]:
    return lambda: Sparsify(pattern="2:4", data=data(), samples=4, batch_size=4, threads=1)(model)


def certificate(model: Model) -> Callable[[], object]:
    sparse = _sparse(model)
    result = Transform(unverified=True)(sparse)
    return lambda: _certified(sparse, result.model, result.kept)


def _certified(sparse: Model, dense: Model, kept: object) -> None:
    verdict = certify(sparse.proto, dense.proto, kept)
    assert verdict.certified, verdict.explanation


STAGES: dict[str, Stage] = {
    "inspect": inspect,
    "ana": plan_ana,
    "prune": prune,
    **{f"criterion {name}": judge(name) for name in sorted(CRITERIA)},
    "blocks": blocks,
    "recover": recover,
    "rotate": rotate,
    "factorize": factorize,
    "sparsify": sparsify,
    "transform": transform,
    "certificate": certificate,
}
TRAINING = {f"criterion {name}" for name in NEED_GRADIENTS}
"""Stages that need the training runtime."""


def seconds(work: Callable[[], object]) -> float:
    """Return the processor time of some work; the garbage collector looks at all that is alive: not now."""
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        work()
        return time.process_time() - start
    finally:
        gc.enable()


def per_node(network: str, stage: str, nodes: int, rounds: int = 1) -> float:
    """Return the least processor time of some rounds, in milliseconds for a node."""
    model = _copied(_built(network, nodes))
    work = STAGES[stage](model)
    return min(seconds(work) for _ in range(rounds)) / len(model.nodes) * 1e3


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="500,1000,2000,4000,8000")
    parser.add_argument("--only", default="*")
    options = parser.parse_args()
    sizes = sorted(map(int, options.sizes.split(",")))
    first = next((k for k, size in enumerate(sizes[:-1]) if size >= 1000), 0)
    print(f"| network, stage | {' | '.join(f'{size} nodes' for size in sizes)} | ratio |")
    print(f"|---|{'---:|' * (len(sizes) + 1)}")
    worst = 0.0
    for name in (f"{network}, {stage}" for network in NETWORKS for stage in STAGES):
        if not fnmatch.fnmatch(name, options.only):
            continue
        network, _, stage = name.partition(", ")
        times = [per_node(network, stage, size) for size in sizes]
        ratio = times[-1] / times[first]
        worst = max(worst, ratio)
        print(f"| {name} | {' | '.join(f'{t:.2f} ms' for t in times)} | {ratio:.2f} |", flush=True)
    return worst > LARGEST_RATIO


if __name__ == "__main__":
    sys.exit(main())
