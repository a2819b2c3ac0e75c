"""The latency model: measured at some widths of the groups, fitted in between.

Whole networks are timed, not single operators: what an operator takes depends on what runs before and after
it, on threads that wait for one another and on what the runtime fuses. Some networks of random widths are
shrunk and timed side by side with the original, and the times are explained by a few costs, none of them
negative: multiply-accumulates by kind of operator, and elements that are written. So the time is a
polynomial in the widths, like any other cost. Every plan that comes of it is timed too; the polynomial is
then corrected by that, and the plan made again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from onnxprune.algebra.axes import Dim, at_numbers
from onnxprune.analysis.groups.channels import Channels
from onnxprune.analysis.groups.cost import Counts, Polynomial
from onnxprune.analysis.inputs import feeds_that_run
from onnxprune.decisions.channels.adapted_inputs import fed_as_before
from onnxprune.ops.axes import Typing
from onnxprune.ops.views import WINDOWS
from onnxprune.runtime import Array, Feeds, Session, TensorSpec
from onnxprune.runtime.backends import LatencyBackend, find_backend
from onnxprune.scoring.layerwise.layers import views_of
from onnxprune.search.candidates import Candidate, removed_by
from onnxprune.search.evaluator import Removed
from onnxprune.support.progress import task

SAMPLES = 10
"""How many networks are timed before the first plan."""
CORRECTIONS = 4
"""How often a plan may be made again."""
CLOSE = 0.03
"""A prediction that is this near to the measurement needs no correction."""
_ROUNDS = 15
_RIDGE = 1e-3
_NEAR = 4.0
"""How much more than a random network a plan weighs that was made for the budget."""


@dataclass
class Stopwatch:
    """Times networks against the original, and predicts how long others take.

    Attributes:
        channels: The network.
        threads: Threads of a run; ``None`` leaves it to onnxruntime.
        seed: Of the random widths and inputs.
        backend: The runtime or device that is timed.
        baseline_ms: The original's time.
        counts: What remained in the networks that were timed.
        ratios: Their times in parts of the original's.
        weights: How much each of them weighs.
    """

    channels: Channels
    threads: int | None = None
    seed: int = 0
    backend: LatencyBackend = field(default_factory=find_backend)
    baseline_ms: float = 0.0
    counts: list[Counts] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def calibrate(self, offers: Sequence[Candidate]) -> None:
        """Time networks between the widest and the narrowest there is, most of them of random widths."""
        random = np.random.default_rng(self.seed)
        plans = []
        for sample in range(SAMPLES):
            share = (sample + 1) / SAMPLES
            spread = 0.5 * min(share, 1 - share)
            parts = np.clip(share + random.uniform(-spread, spread, len(offers)), 0, 1)
            levels = [round(p * len(o.steps)) for p, o in zip(parts, offers, strict=True)]
            plans.append(removed_by(offers, levels))
        with task("time widths"):
            for removed, ratio in zip(plans, self.time(plans), strict=True):
                self._remember(removed, ratio, 1.0)

    def time(self, plans: Sequence[Removed]) -> list[float]:
        """Return how long networks take, in parts of the original's time, all timed side by side."""
        models = [self.channels.model, *(fed_as_before(self.channels, removed) for removed in plans)]
        times = self.backend.measure(
            [m.proto for m in models], [self._feeds] * len(models), rounds=_ROUNDS, threads=self.threads
        )
        self.baseline_ms = times[0].median_ms
        return [t.median_ms / times[0].median_ms for t in times[1:]]

    def correct(self, removed: Removed) -> float:
        """Time a plan that was made for a budget and learn from it; return its time in parts."""
        (ratio,) = self.time([removed])
        self._remember(removed, ratio, _NEAR)
        return ratio

    @property
    def input_shapes(self) -> dict[str, list[int]]:
        """Shapes of the inputs that are timed, by name."""
        return {name: list(array.shape) for name, array in self._feeds.items()}

    def polynomial(self) -> Polynomial:
        """Return the time in parts of the original's, as far as is known by now."""
        features = self._features
        whole = np.asarray([f.value() for f in features])
        rows = [np.ones(len(features))]
        rows += [np.asarray([f.value(c) for f in features]) / whole for c in self.counts]
        shares = _explained(np.asarray(rows), np.asarray([1.0, *self.ratios]), [_NEAR, *self.weights])
        return Polynomial.sum(features, (shares / whole).tolist())

    def _remember(self, removed: Removed, ratio: float, weight: float) -> None:
        sizes = {factor: len(kept) for factor, kept in self.channels.kept(removed).items()}
        self.counts.append(sizes)
        self.ratios.append(ratio)
        self.weights.append(weight)

    @cached_property
    def _features(self) -> list[Polynomial]:
        return list(costs_by_kind(self.channels).values())

    @cached_property
    def _feeds(self) -> Feeds:
        """One input: a single sample, unless the file or the user says otherwise."""
        model, found = self.channels.model, self.channels.typing.shapes.inputs
        session = Session(model.proto, threads=self.threads)
        shapes = {i.name: self._single(i, found[i.name]) for i in session.inputs if found.get(i.name)}
        how: dict[str, Any] = {"given": shapes, "batch": 1, "seed": self.seed}
        return feeds_that_run(model, session, shapes, **how)[0]

    def _single(self, spec: TensorSpec, sizes: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of an input with one sample, where its batch is open and nobody has set it."""
        given = self.channels.model.sizes.get(spec.name, (-1,))
        fixed = not spec.shape or isinstance(spec.shape[0], int) or (bool(given) and given[0] > 0)
        return tuple(sizes) if fixed else (1, *sizes[1:])


def costs_by_kind(channels: Channels) -> dict[str, Polynomial]:
    """Return what the time is explained by: ``one``, ``elements`` that are written, the work by operator."""
    typing, free = channels.typing, {g.factor for g in channels.groups}
    nodes = typing.nodes
    products: dict[str, list[tuple[float, Sequence[Dim]]]] = defaultdict(list)
    for work in typing.work:
        products[_kind(channels, nodes[work.node])].append((1.0, _at_reference(typing, work.dims)))
    for node in nodes:
        for name in node.output:
            if name in typing.axes and name not in channels.model.constants:
                products["elements"].append((1.0, _at_reference(typing, typing.axes[name])))
    found = {kind: Polynomial(products[kind], free) for kind in sorted(products)}
    moving = {kind: polynomial for kind, polynomial in found.items() if polynomial.terms}
    return {"one": Polynomial([(1.0, ())], free)} | moving


def _at_reference(typing: Typing, dims: Sequence[Dim]) -> list[Dim]:
    return [at_numbers(dim, typing.shapes.number) for dim in dims]


def _kind(channels: Channels, node: onnx.NodeProto) -> str:
    """Return which of the kinds a node is of whose multiply-accumulates take different times."""
    view = next((v for v in views_of(channels.model, node) if v.layout in WINDOWS), None)
    if view is None:
        return node.op_type
    weight = channels.model.constants.get(node.input[view.weights])
    small = weight is not None and all(size == 1 for size in weight.dims[2:])
    return f"{node.op_type} {'in groups' if view.groups > 1 else '1×1' if small else 'k×k'}"


def _explained(costs: Array, times: Array, weights: Sequence[float]) -> Array:
    """Return non-negative shares that explain times, ``costs · shares ≈ times``, by weighted least squares.

    What the samples do not tell apart is shared out evenly. Shares that come out negative are set to zero,
    the worst first (after Lawson and Hanson, "Solving Least Squares Problems", 1974, chapter 23).

    Args:
        costs: ``[samples, features]``.
        times: ``[samples]``.
        weights: ``[samples]``.
    """
    scale = np.sqrt(np.asarray(weights)) / np.maximum(times, 1e-3)
    count = costs.shape[1]
    active = np.ones(count, bool)
    while True:
        chosen = np.flatnonzero(active)
        ridge = np.sqrt(_RIDGE) * np.eye(len(chosen))
        rows = np.concatenate([costs[:, chosen] * scale[:, None], ridge])
        wanted = np.concatenate([times * scale, np.full(len(chosen), np.sqrt(_RIDGE) / count)])
        found = np.linalg.lstsq(rows, wanted, rcond=None)[0]
        if (found >= 0).all():
            shares = np.zeros(count)
            shares[chosen] = found
            return shares
        active[chosen[int(found.argmin())]] = False
