"""The latency model: measured at some widths of the groups, fitted in between.

Whole networks are timed, not single operators: the time of an operator depends on its neighbours, on threads
that wait for one another and on the fusions of the runtime. Some networks of random widths are
shrunk and timed side by side with the original, and the times are explained by a few costs, none of them
negative: multiply-accumulates by kind of operator, and elements that are written; both at the widths as they
are, and at widths rounded up to the steps of the device. So the time is a polynomial in the widths, like any
other cost. Every plan made with it is timed too; the polynomial is then corrected by that time, and the plan
made again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from onnxprune.algebra.axes import Dim, Factor
from onnxprune.algebra.kept_axes import at_numbers
from onnxprune.analysis.groups.channels import Channels
from onnxprune.analysis.groups.cost import Counts, Polynomial
from onnxprune.analysis.inputs import feeds_that_run
from onnxprune.decisions.channels.adapted_inputs import fed_as_before
from onnxprune.errors import PlanError
from onnxprune.ops.axes import Typing
from onnxprune.runtime import Array, Feeds, Latency, Session, TensorSpec
from onnxprune.runtime.backends import TIMEOUT_S, LatencyBackend, find_backend
from onnxprune.search.budgets import Budget, in_whole_steps
from onnxprune.search.candidates import Candidate, make_offer, removed_by
from onnxprune.search.evaluator import Removed
from onnxprune.search.latency_table import LatencyTable, NetworkTime, digest_of_network
from onnxprune.search.limits import Limits
from onnxprune.search.steps import WIDTHS, Probe, find_step, kind_of, probes_of, steps_of_groups
from onnxprune.support.progress import task

SAMPLES = 10
"""Number of networks timed before the first plan."""
CORRECTIONS = 4
"""Number of times a plan may be made again."""
REACHED_IN_TIME = 0.01
"""A budget of time that is missed by less counts as met."""
CLOSE = 0.03
"""A prediction that is this near to the measurement needs no correction."""
_ROUNDS = 15
_PROBE_ROUNDS = 5
_PORTION = 4
"""Networks that a slow back-end times before their figures are kept."""
_RIDGE = 1e-3
_NEAR = 4.0
"""Weight of a plan that was made for the budget, relative to a random network."""
_CERTAIN = 400.0
"""The weight of the whole network, whose ratio is one by definition and free of noise."""
Key: TypeAlias = tuple[tuple[str, int], ...]
"""Widths of groups by name, as a key."""


@dataclass(frozen=True)
class Sample:
    """A network that was timed.

    Attributes:
        counts: Channels that remain, by factor.
        ratio: Its time in parts of the original's.
        weight: The weight of its error.
    """

    counts: Counts
    ratio: float
    weight: float


@dataclass
class Stopwatch:
    """Times networks against the original, and predicts how long others take.

    Attributes:
        channels: The network.
        table: The figures of the device; it grows with every measurement.
        backend: The runtime or device that is timed; ``None`` where only the table is at hand.
        threads: Threads of a run; ``None`` leaves it to the runtime.
        seed: Seed of the random widths and inputs.
        samples: The networks that the prediction is fitted to, by the widths of their groups.
    """

    channels: Channels
    table: LatencyTable
    backend: LatencyBackend | None = None
    threads: int | None = None
    seed: int = 0
    samples: dict[Key, Sample] = field(default_factory=dict)

    @classmethod
    def here(cls, channels: Channels, threads: int | None = None, seed: int = 0) -> Stopwatch:
        """Return a stopwatch on this machine's onnxruntime, whose figures are kept nowhere."""
        return cls(channels, *opened_table(None, None, threads=threads), threads, seed)

    @property
    def baseline_ms(self) -> float:
        """The original's time in milliseconds, as measured last."""
        return self._entries[-1].baseline_ms

    def calibrate(self, offers: Sequence[Candidate]) -> None:
        """Time networks between the widest and the narrowest there is, most of them of random widths.

        Raises:
            PlanError: Only a table is at hand, and it does not have this network.
            DeviceError: A back-end failed.
        """
        plans = random_plans(offers, self.seed)
        if self.backend is not None:
            with task("time widths"):
                self.time(plans)
        drawn = {_key(self._widths(plan)) for plan in plans}
        for entry in self._entries:  # an interrupted command that goes on plans as it did before
            if self.backend is None or _key(entry.widths) in drawn:
                self._remember(entry, 1.0)
        if not self.samples:
            raise PlanError(
                f"the latency table {self.table.path} has no figures of this network with inputs"
                f" {self.input_shapes}",
                "make them on the device: bench MODEL --latency-out FILE, with the same --shape and --dim",
            )

    @cached_property
    def steps(self) -> dict[Factor, int]:
        """The steps in which the device computes the channels of groups, measured where they are not known.

        Raises:
            DeviceError: A back-end failed.
        """
        for probe in probes_of(self.channels):
            if probe.kind not in self.table.steps and self.backend is not None:
                self._time_widths(probe, self.backend)
        return steps_of_groups(self.channels, self.table.steps)

    def time(self, plans: Sequence[Removed]) -> list[float]:
        """Return how long networks take, in parts of the original's time.

        Those that the table does not have are timed side by side with the original, and enter it.

        Raises:
            DeviceError: A back-end failed.
        """
        known = {_key(entry.widths) for entry in self._entries}
        distinct = {_key(self._widths(plan)): plan for plan in plans}
        missing = [plan for key, plan in distinct.items() if key not in known]
        if self.backend is not None:
            least = 0 if known else 1  # the original alone
            portion = _PORTION if self.backend.slow else max(len(missing), 1)
            for start in range(0, max(len(missing), least), portion):
                self._measure(missing[start : start + portion], self.backend)
        ratios = {_key(entry.widths): entry.ratio for entry in self._entries}
        return [ratios[_key(self._widths(plan))] for plan in plans]

    def correct(self, removed: Removed) -> float:
        """Time a plan that was made for a budget and add it to the fit; return its time as a ratio."""
        (ratio,) = self.time([removed])
        key = _key(self._widths(removed))
        for entry in self._entries:
            if _key(entry.widths) == key:
                self._remember(entry, _NEAR)
        return ratio

    @property
    def input_shapes(self) -> dict[str, list[int]]:
        """Shapes of the inputs that are timed, by name."""
        return {name: list(array.shape) for name, array in self._feeds.items()}

    def budget(self, reduction: float, elsewhere: Counts, steps: Counts) -> Budget:
        """Return the time as a budget, in parts of the original's, by the present fit.

        Args:
            reduction: The fraction to remove.
            elsewhere: Channels that remain in groups that offer nothing.
            steps: Steps in which the device computes channels, by factor.
        """
        plain = list(self._costs.values())
        moving = [cost for name, cost in self._costs.items() if name != "one"] if steps else []

        def values(counts: Counts) -> list[float]:
            up = in_whole_steps(counts, steps)
            return [cost.value(counts) for cost in plain] + [cost.value(up) for cost in moving]

        whole, samples = np.asarray(values({})), list(self.samples.values())
        rows = [np.ones(len(whole)), *(np.asarray(values(s.counts)) / whole for s in samples)]
        times, weights = [1.0, *(s.ratio for s in samples)], [_CERTAIN, *(s.weight for s in samples)]
        shares = (_explained(np.asarray(rows), np.asarray(times), weights) / whole).tolist()
        first, rest = shares[: len(plain)], shares[len(plain) :]
        stepped = Polynomial.sum(moving, rest) if moving else None
        return Budget("latency", Polynomial.sum(plain, first), 1.0, reduction, elsewhere, stepped, steps)

    def _measure(self, plans: Sequence[Removed], backend: LatencyBackend) -> None:
        """Time networks beside the original; times measured before a failure are kept."""
        models = [self.channels.model, *(fed_as_before(self.channels, removed) for removed in plans)]
        widths = [{}, *(self._widths(plan) for plan in plans)]
        figures: dict[int, float] = {}

        def done(k: int, latency: Latency) -> None:
            figures[k] = backend.figure(latency)

        protos, shapes = [m.proto for m in models], self.input_shapes
        how: dict[str, Any] = {"rounds": _ROUNDS, "threads": self.threads, "done": done}
        try:
            backend.measure(protos, [self._feeds] * len(protos), **how)
        finally:
            if 0 in figures:
                self.table.add(
                    NetworkTime(self._digest, shapes, widths[k], ms, figures[0]) for k, ms in figures.items()
                )

    def _time_widths(self, probe: Probe, backend: LatencyBackend) -> None:
        """Time stacks of one kind of layer; enter their times and the step into the table."""
        models = [probe.model(width) for width in WIDTHS]
        feeds = [probe.feeds(width) for width in WIDTHS]
        with task(f"time {probe.kind}"):
            found = backend.measure(models, feeds, rounds=_PROBE_ROUNDS, threads=self.threads)
        times = [backend.figure(latency) for latency in found]
        self.table.layers += [probe.describe(w, ms) for w, ms in zip(WIDTHS, times, strict=True)]
        self.table.steps[probe.kind] = find_step(WIDTHS, times, grouped=probe.grouped)
        self.table.write()

    def _widths(self, removed: Removed) -> dict[str, int]:
        kept = self.channels.kept(removed)
        return {g.name: len(kept[g.factor]) for g in self.channels.groups if g.factor in kept}

    def _remember(self, entry: NetworkTime, weight: float) -> None:
        """Fit the prediction to a network, if all of its groups are known here."""
        groups, key = {g.name: g for g in self.channels.groups}, _key(entry.widths)
        fits = all(name in groups and 0 < n <= groups[name].size for name, n in entry.widths.items())
        if fits and entry.widths and (key not in self.samples or weight > self.samples[key].weight):
            counts = {groups[name].factor: n for name, n in entry.widths.items()}
            self.samples[key] = Sample(counts, entry.ratio, weight)

    @property
    def _entries(self) -> list[NetworkTime]:
        return self.table.of(self._digest, self.input_shapes)

    @cached_property
    def _digest(self) -> str:
        return digest_of_network(self.channels.model)

    @cached_property
    def _costs(self) -> dict[str, Polynomial]:
        return costs_by_kind(self.channels)

    @cached_property
    def _feeds(self) -> Feeds:
        """The inputs of one run: a single sample, unless the file or the user fixes another size."""
        model, found = self.channels.model, self.channels.typing.shapes.inputs
        session = Session(model.proto, threads=self.threads)
        shapes = {i.name: self._single(i, found[i.name]) for i in session.inputs if found.get(i.name)}
        how: dict[str, Any] = {"given": shapes, "batch": 1, "seed": self.seed}
        return feeds_that_run(model, session, shapes, **how)[0]

    def _single(self, spec: TensorSpec, sizes: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of an input with one sample, where its batch is open and not set by an option."""
        given = self.channels.model.sizes.get(spec.name, (-1,))
        fixed = not spec.shape or isinstance(spec.shape[0], int) or (bool(given) and given[0] > 0)
        return tuple(sizes) if fixed else (1, *sizes[1:])


def random_plans(offers: Sequence[Candidate], seed: int) -> list[dict[str, list[int]]]:
    """Return plans between the widest and the narrowest there is, most of them of random widths."""
    random, plans = np.random.default_rng(seed), []
    for sample in range(SAMPLES):
        share = (sample + 1) / SAMPLES
        spread = 0.5 * min(share, 1 - share)
        parts = np.clip(share + random.uniform(-spread, spread, len(offers)), 0, 1)
        levels = [round(p * len(o.steps)) for p, o in zip(parts, offers, strict=True)]
        plans.append(removed_by(offers, levels))
    return plans


def fill_table(
    channels: Channels, table: LatencyTable, backend: LatencyBackend, threads: int | None = None
) -> None:
    """Time the variants of a network on a device from which plans are made.

    Raises:
        DeviceError: The back-end failed; times measured before are in the table.
    """
    watch = Stopwatch(channels, table, backend, threads)
    groups = [g for g in channels.groups if not g.optional]
    offers = [make_offer(channels, g, np.zeros(g.size), Limits()) for g in groups]
    watch.calibrate(offers)
    _ = watch.steps


def opened_table(
    path: Path | None, backend: str | None, timeout_s: float = TIMEOUT_S, threads: int | None = None
) -> tuple[LatencyTable, LatencyBackend | None]:
    """Return a table of latency, and the back-end that adds to it.

    A table that was made elsewhere is used as it is: there is no back-end then, and nothing is measured.

    Args:
        path: The file; it need not be there. ``None`` keeps the table in memory.
        backend: The back-end by its name; by default onnxruntime, if the table was made with it, here.
        timeout_s: Seconds that one call of a command may take.
        threads: Threads of a run.

    Raises:
        PlanError: The table cannot be read, or was made with another back-end or number of threads.
        DeviceError: The back-end is not there.
    """
    if path is None or not path.exists():
        found = find_backend(backend, timeout_s)
        return LatencyTable(found.device, found.name, threads, path=path), found
    table = LatencyTable.read(path)
    if threads is not None and table.threads != threads:
        raise PlanError(
            f"the latency table {path} was measured with {table.threads or 'all'} threads, not {threads}",
            "give the same --threads, or another file",
        )
    if backend is None:
        here = find_backend()
        return table, here if (table.backend, table.device) == (here.name, here.device) else None
    found = find_backend(backend, timeout_s)
    if found.name != table.backend:
        raise PlanError(
            f"the latency table {path} was measured with {table.backend}, not with {found.name}",
            "give another file to --latency-table, or leave --latency-backend out to use the table as it is",
        )
    return table, found


def _key(widths: Mapping[str, int]) -> Key:
    return tuple(sorted(widths.items()))


def costs_by_kind(channels: Channels) -> dict[str, Polynomial]:
    """Return the features of the time: ``one``, ``elements`` that are written, the work by operator."""
    typing, free = channels.typing, {g.factor for g in channels.groups}
    nodes = typing.nodes
    products: dict[str, list[tuple[float, Sequence[Dim]]]] = defaultdict(list)
    for work in typing.work:
        products[kind_of(channels, nodes[work.node])].append((1.0, _at_reference(typing, work.dims)))
    for node in nodes:
        for name in node.output:
            if name in typing.axes and name not in channels.model.constants:
                products["elements"].append((1.0, _at_reference(typing, typing.axes[name])))
    found = {kind: Polynomial(products[kind], free) for kind in sorted(products)}
    moving = {kind: polynomial for kind, polynomial in found.items() if polynomial.terms}
    return {"one": Polynomial([(1.0, ())], free)} | moving


def _at_reference(typing: Typing, dims: Sequence[Dim]) -> list[Dim]:
    return [at_numbers(dim, typing.shapes.number) for dim in dims]


def _explained(costs: Array, times: Array, weights: Sequence[float]) -> Array:
    """Return non-negative shares that explain times, ``costs · shares ≈ times``, by weighted least squares.

    Shares that the samples do not determine are equal. Negative shares are set to zero,
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
        targets = np.concatenate([times * scale, np.full(len(chosen), np.sqrt(_RIDGE) / count)])
        found = np.linalg.lstsq(rows, targets, rcond=None)[0]
        if (found >= 0).all():
            shares = np.zeros(count)
            shares[chosen] = found
            return shares
        active[chosen[int(found.argmin())]] = False
