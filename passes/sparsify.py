"""``sparsify``: set single elements of weights to zero by a pattern, the channels being chosen already.

The shapes stay, and the zeros stay in the dense file: sparse tensor cores and sparse runtimes make use of
them. Blocks are cut from the channels that are left, so that they are whole once `transform` has removed the
others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, ClassVar

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.masks import dead_channels
from onnxprune.decisions.channels.planned import removed_channels, stored_plan
from onnxprune.decisions.channels.remaining_statistics import over_remaining, sparse_in_own_graph
from onnxprune.decisions.channels.rescaling import rescaled_constants
from onnxprune.decisions.elements import (
    ElementWeight,
    Unfit,
    demand_pattern,
    find_weights,
    pattern_note,
    whole_numbers,
)
from onnxprune.decisions.elements.masks import dense_model
from onnxprune.decisions.pattern import PATTERN_KEY, Pattern, PatternNote
from onnxprune.errors import NothingToDoError, PlanError, UsageError
from onnxprune.evaluate.data import DataSpec, open_data
from onnxprune.evaluate.equivalence import CheckBudget, examine
from onnxprune.evaluate.equivalence.verification import demand
from onnxprune.ir import Model, label
from onnxprune.passes.base import Pass, PassResult
from onnxprune.passes.recover import DEFAULT_METHODS, DEFAULT_SAMPLES, Recover
from onnxprune.passes.reports import SparsifyReport
from onnxprune.repair import ModelPair, RepairMethod, Settings, sweep
from onnxprune.repair.thinning import Score, Thinning
from onnxprune.runtime import Session
from onnxprune.support.common_options import GroupSelection, InputSizes, Seeded, Threaded, Unchanged
from onnxprune.support.globs import matching
from onnxprune.support.option_fields import Key, option

_CHECK = CheckBudget(seconds=3.0)


@dataclass(frozen=True)
class Sparsify(GroupSelection, Unchanged, Seeded, Threaded, InputSizes, Pass):
    """Set elements of weights to zero by a pattern such as 2:4, and repair the remaining ones.

    Attributes:
        pattern: Of every M neighbours along the inputs N stay, such as 2:4; or unstructured:0.5, the fraction
            of every weight that goes.
        data: Samples, labels not needed, to choose elements by and to repair with: an .npz or .jsonl
            file, a folder of samples, or module:callable.
        score: The score of an element: ``magnitude``; ``wanda``, magnitude times the norm of its input;
            ``sparsegpt``, the error that is left when the others make up for it. By default ``sparsegpt``
            with samples, else ``magnitude``.
        recover: Methods of `recover` to repair each layer with, or none; by default ``least-squares`` with
            samples, and none without.
        samples: Number of samples, drawn at random.
        batch_size: Samples a run.
    """

    name: ClassVar[str] = "sparsify"

    pattern: str = field(
        default="2:4", metadata=option(metavar="N:M", key=Key(note="or unstructured:0.5, a fraction"))
    )
    data: DataSpec | None = field(default=None, metadata=option(metavar="DATA", place="reads"))
    score: Score | None = field(
        default=None,
        metadata=option(
            key=Key(
                text="The score of an element; by default ``sparsegpt``.",
                example='"sparsegpt"',
                note="{choices}",
            )
        ),
    )
    recover: Sequence[RepairMethod] | None = field(default=None, metadata=option(metavar="METHOD"))
    samples: int = field(
        default=DEFAULT_SAMPLES,
        metadata=option(least=2, key=Key(text="Number of samples of the calibration data.")),
    )
    batch_size: int = field(default=32, metadata=option(least=1))

    def requires(self, given: PassResult) -> None:
        """The options make sense, and the model follows no pattern yet."""
        super().requires(given)
        Pattern.of(self.pattern)
        if self.data is None and (self._score != "magnitude" or self.recover):
            what = "a repair" if self._score == "magnitude" else f"the score '{self._score}'"
            raise UsageError(f"{what} looks at samples", "give them with `data`")
        note = pattern_note(given.model)
        if note is not None:
            raise PlanError(
                f"{given.model.name} follows the pattern {note.pattern} already",
                "give the model as it was before `sparsify`",
            )

    def run(self, given: PassResult) -> PassResult:
        """Find the weights in the dense network, choose elements, repair, compare."""
        start, pattern, plan = perf_counter(), Pattern.of(self.pattern), stored_plan(given.model)
        channels, removed = removed_channels(given.model, plan) if plan else (find_channels(given.model), {})
        found, unfit = self._weights(channels, removed, pattern)
        if not found:
            return self._unchanged(given, unfit)
        numbers = whole_numbers(channels, removed, found, pattern)
        pair = ModelPair.beside_itself(channels, removed)
        thinning = Thinning(channels.typing, pair, numbers, pattern, self._score)
        report = self._thin(thinning)
        sparse = self._own(given.model, channels, removed, pair.sparse)
        sparse.set_metadata(PATTERN_KEY, PatternNote(pattern, tuple(numbers)).to_json())
        facts = self._facts(channels, thinning, found, unfit)
        facts |= {"dead_channels": _dead(channels) if plan is None else 0}
        facts |= {"sparsify_s": perf_counter() - start} | report
        return PassResult(sparse, True, SparsifyReport(**facts), given.analysis)

    def ensures(self, given: PassResult, result: PassResult) -> None:
        """The model is valid, and its dense form follows the pattern in every weight that is named."""
        super().ensures(given, result)
        if result.modified:
            demand_pattern(dense_model(result.model))

    @property
    def _score(self) -> Score:
        if self.score is None:
            return "sparsegpt" if self.data is not None else "magnitude"
        return self.score

    @property
    def _methods(self) -> Sequence[RepairMethod]:
        if self.recover is not None:
            return self.recover
        return DEFAULT_METHODS if self.data is not None else ()

    def _weights(
        self, channels: Channels, removed: Mapping[str, Sequence[int]], pattern: Pattern
    ) -> tuple[dict[str, tuple[ElementWeight, tuple[int, ...]]], list[Unfit]]:
        """Return the chosen weights of the dense network and their shapes, by their names in the whole."""
        gone = any(len(rows) for rows in removed.values())
        dense = shrunk(channels, removed) if gone else channels.model
        analysed = find_channels(dense)
        weights, unfit = find_weights(analysed, pattern)
        renamed = rescaled_constants(channels, removed, dense) if gone else {}
        names = {w.tensor: {w.tensor, *_nodes(analysed, w)} for w in weights}
        names |= {u.tensor: {u.tensor, u.node} for u in unfit}
        chosen, found = self._chosen(names), {}
        for weight in weights:
            own, _ = renamed.get(weight.tensor, (weight.tensor, 1.0))
            if weight.tensor in chosen and own in channels.model.constants:
                found[own] = weight, tuple(analysed.model.constants[weight.tensor].dims)
        return found, [u for u in unfit if u.tensor in chosen]

    def _chosen(self, names: Mapping[str, set[str]]) -> set[str]:
        """Return the weights that the options choose, by name.

        Raises:
            PlanError: A glob matches nothing.
        """
        every = set().union(*names.values())
        meant = {p: matching(p, every) for p in (*self.exclude, *self.only)}
        for glob, found in meant.items():
            if not found:
                raise PlanError(f"'{glob}' matches no weight and no node with one", "`sparsify` lists them")
        excluded, named = (set().union(*(meant[p] for p in ps)) for ps in (self.exclude, self.only))
        return {t for t, own in names.items() if not own & excluded and (not self.only or own & named)}

    def _unchanged(self, given: PassResult, unfit: Sequence[Unfit]) -> PassResult:
        if not self.allow_unchanged:
            reasons = "; ".join(f"{u.operator} '{u.node}': {u.reason}" for u in unfit[:3])
            raise NothingToDoError(
                f"no weight of {given.model.name} can follow the pattern {self.pattern}",
                reasons or "it has no convolution or matrix product with weights of its own",
            )
        return PassResult(
            given.model, False, SparsifyReport(unchanged=True, left=_left(unfit)), given.analysis
        )

    def _thin(self, thinning: Thinning) -> dict[str, Any]:
        """Choose elements and repair, layer by layer; return the errors of the outputs."""
        thinning.by_magnitude()
        if self.data is None:
            return {"samples": 0, "outputs": {}, "skipped": []}
        pair = thinning.pair
        session = Session(pair.original.proto, threads=self.threads)
        data = open_data(self.data, session.inputs, session.outputs)
        drawn = Recover(pair.original, samples=self.samples, batch_size=self.batch_size, seed=self.seed)
        feeds = drawn.feeds(data, session.fixed_batch)
        settings = Settings(self._methods, self.seed, self.threads)
        report = sweep(pair, feeds, settings, thinning.prepare)
        count = sum(len(next(iter(feed.values()))) for feed in feeds)
        return {"samples": count, "outputs": report.outputs, "skipped": report.skipped}

    def _own(
        self, given: Model, channels: Channels, removed: Mapping[str, Sequence[int]], changed: Model
    ) -> Model:
        """Return the user's own graph with the new weights, compared with the form that was analysed."""
        own = sparse_in_own_graph(given, channels, removed, changed)
        if given is not channels.model:
            analysed = over_remaining(changed, channels, removed)
            verdict = examine(own, analysed, shapes=own.sizes or None, seed=self.seed, budget=_CHECK)
            if verdict.status == "differ":
                demand(verdict, own.name, "its analysed form")
        return own

    def _facts(
        self,
        channels: Channels,
        thinning: Thinning,
        found: Mapping[str, tuple[ElementWeight, tuple[int, ...]]],
        unfit: Sequence[Unfit],
    ) -> dict[str, Any]:
        rows = [
            {
                "tensor": name,
                "node": label(channels.typing.nodes[_reader(channels, name)]),
                "score": thinning.scored[name],
                "elements": int((numbers != 0).sum()),
                "zeros": int(((numbers != 0) & ~thinning.pair.elements[name]).sum()),
                "reason": thinning.reasons.get(name, ""),
            }
            for name, numbers in thinning.numbers.items()
        ]
        return {
            "pattern": self.pattern,
            "score": self._score,
            "recover": list(self._methods),
            "weights": rows,
            "elements": sum(row["elements"] for row in rows),
            "zeros": sum(row["zeros"] for row in rows),
            "left": _left(unfit),
        }


def _reader(channels: Channels, name: str) -> int:
    """Return the first node that reads a constant."""
    return channels.model.index.readers(name)[0]


def _nodes(channels: Channels, weight: ElementWeight) -> Iterator[str]:
    """Yield the names of the nodes that read a weight."""
    yield label(channels.typing.nodes[weight.node])
    for number in channels.model.index.readers(weight.tensor):
        yield label(channels.model.index.nodes[number])


def _dead(channels: Channels) -> int:
    """Return how many channels are zero already: `transform` removes them if it runs before."""
    return sum(len(gone) for gone in dead_channels(channels)[1].values())


def _left(unfit: Sequence[Unfit]) -> list[dict[str, str]]:
    return [{"tensor": u.tensor, "node": u.node, "operator": u.operator, "reason": u.reason} for u in unfit]
