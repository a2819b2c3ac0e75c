"""``transform``: turn the zeros of a sparse model into a smaller, dense model, and prove them equal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from onnxprune.analysis.evidence.branches import without_dead_branches
from onnxprune.analysis.evidence.folding import folded_evidence
from onnxprune.analysis.evidence.precomputed import precomputed
from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.analysis.groups.selection import why_blocked
from onnxprune.analysis.groups.slots import lined_up, zeros_first
from onnxprune.certify import CertifyResult, certify
from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.configuration import CONFIG_KEY, Widths, configurations, rewritten, widths
from onnxprune.decisions.channels.dense_interface import Interface
from onnxprune.decisions.channels.hints import Elements, Hints, in_order, kept_elements
from onnxprune.decisions.channels.kept_rows import kept_rows, with_common_numbers
from onnxprune.decisions.channels.own_nodes import Form, with_own_nodes
from onnxprune.decisions.channels.planned import removed_channels, stored_plan
from onnxprune.decisions.channels.scales import with_scales_in_place
from onnxprune.decisions.channels.summary import note_widths
from onnxprune.decisions.elements import carry_note, demand_pattern, pattern_note
from onnxprune.decisions.origin_note import ORIGIN_KEY
from onnxprune.decisions.plan import PLAN_KEY
from onnxprune.decisions.rotation import MAPS_KEY
from onnxprune.errors import NothingToDoError, NotShownError
from onnxprune.evaluate.data import DataSpec
from onnxprune.evaluate.equivalence import Verdict, examine, is_exact
from onnxprune.evaluate.equivalence.verification import demand
from onnxprune.ir import OPEN_KEY, SAMPLES_KEY, VOCABULARY_KEY, Model, merged
from onnxprune.ir.canonical.canonicalise import canonicalise
from onnxprune.ir.canonical.own_fills import with_shared_fills
from onnxprune.passes.base import Pass, PassResult
from onnxprune.passes.plan_reports import widths_of
from onnxprune.passes.reports import TransformReport, costs
from onnxprune.support.common_options import InputSizes, OpenInterface, Seeded, Unchanged
from onnxprune.support.mapped import array_of, release
from onnxprune.support.option_fields import option


def _canonical(model: Model) -> Model:
    """Return the form that a plan is made on."""
    return canonicalise(model)[0]


def _precomputed(model: Model) -> Model:
    """Return the form that evidence is looked for in."""
    return canonicalise(precomputed(model))[0]


@dataclass(frozen=True)
class Transform(Unchanged, Seeded, OpenInterface, InputSizes, Pass):
    """Remove the channels that are zero.

    Attributes:
        data: Data to compare the two models on, beside random inputs: an .npz or .jsonl file, a
            folder of samples, or module:callable.
        samples: Number of samples of the data.
        unverified: Write the result under its own name although no input could show that it is right.
    """

    name: ClassVar[str] = "transform"
    maps: ClassVar[bool] = True

    data: DataSpec | None = field(default=None, metadata=option(metavar="DATA", place="reads"))
    samples: int = field(default=64, metadata=option(least=1))
    unverified: bool = False

    def run(self, given: PassResult) -> PassResult:
        """Find the removed channels, by plan or by evidence, cut them out, compare the results."""
        plan = stored_plan(given.model)
        if plan is None:
            given = replace(given, model=_without_vocabulary(given.model))
            return self._by_evidence(given)
        channels, removed = removed_channels(given.model, plan)
        if not any(len(gone) for gone in removed.values()):
            note = pattern_note(given.model)
            why = f"no channel is removed, and the zeros of the pattern {note.pattern} stay" if note else ""
            return self._unchanged(given, why or "its plan removes no channel; run `prune` again")
        hints = kept_elements(channels, removed)
        return self._proven(given, channels, removed, shrunk(channels, removed), hints)

    def _by_evidence(self, given: PassResult) -> PassResult:
        """Remove the channels that the weights prove dead."""
        channels = find_channels(precomputed(given.model))
        moved: Elements = {}
        if channels.freedoms:
            arranged = zeros_first(channels)
            moved = in_order(arranged)
            channels = find_channels(lined_up(channels, arranged))
        evidence, remaining = folded_evidence(channels)
        left = [asdict(remainder) for remainder in evidence.left]
        if not evidence.removed and (dense := without_dead_branches(channels.model)) is not channels.model:
            result = self._proven(
                given, channels, {}, dense, kept_elements(channels, {}, moved), _precomputed
            )
            return replace(result, report=result.report.with_keys(left=left))
        if not evidence.removed:
            why = "; ".join(f"{r['operator']} '{r['node']}' keeps channels: {r['reason']}" for r in left[:3])
            why = why or "no channel is zero, constant or unread; run `prune` first"
            return self._unchanged(given, why if channels.groups else why_blocked(channels), left)
        hints = kept_elements(remaining, evidence.removed, moved)
        dense = shrunk(remaining, evidence.removed)
        result = self._proven(given, evidence.channels, evidence.removed, dense, hints, _precomputed)
        return replace(result, report=result.report.with_keys(left=left))

    def _unchanged(self, given: PassResult, why: str, left: Sequence[Mapping[str, Any]] = ()) -> PassResult:
        if self.allow_unchanged:
            return PassResult(
                given.model, False, TransformReport(unchanged=True, left=list(left)), given.analysis
            )
        raise NothingToDoError("nothing to remove", why)

    def _proven(
        self,
        given: PassResult,
        channels: Channels,
        removed: Mapping[str, Sequence[int]],
        dense: Model,
        hints: Hints,
        form: Form = _canonical,
    ) -> PassResult:
        """Run both models on the same inputs, and return the dense one if they agree.

        Beside that it is certified for all inputs, where that can be shown. A certificate replaces no
        comparison; it stands alone where no input showed anything.
        """
        chosen = _chosen(_DenseForms(given.model, channels, removed, dense, hints, form))
        dense, certificate = chosen.model, chosen.certificate
        _carry_notes(given.model, dense, channels, removed)
        checked = demand_pattern(dense)
        verdict = self._compared(given.model, channels, removed, dense)
        fewer = chosen.fewer or bool(channels.removed_blocks(removed))
        left = cost_of(find_channels(dense)).figures() if fewer else None
        facts = self._facts(channels, removed, verdict, left) | {"certificate": certificate.facts()}
        facts |= {"pattern": checked.facts()} if checked else {}
        facts |= {"unfused": chosen.unfused} if chosen.unfused else {}
        facts |= _configuration_facts(given.model, widths(channels, removed))
        result = PassResult(dense, True, TransformReport(**facts), given.analysis, hints)
        try:
            demand(verdict, given.model.name, "the dense model")
        except NotShownError as error:
            if not self.unverified and not certificate.certified:
                error.result = result
                raise
        return result

    def _compared(
        self, sparse: Model, channels: Channels, removed: Mapping[str, Sequence[int]], dense: Model
    ) -> Verdict:
        """Run both models on the same inputs; where rows of a table are gone, on the numbers of both."""
        rows, plan = kept_rows(channels, removed), stored_plan(sparse)
        first, second = (sparse, dense) if rows is None else with_common_numbers(sparse, dense, rows)
        return examine(
            first,
            second,
            shapes=merged(plan.input_shapes if plan else {}, sparse.sizes),
            shrunk=lambda names: Interface.of(channels, removed, names),
            data=self.data,
            samples=self.samples,
            seed=self.seed,
            exact=is_exact(sparse, channels),
        )

    def _facts(
        self,
        channels: Channels,
        removed: Mapping[str, Sequence[int]],
        verdict: Verdict,
        left: Mapping[str, float] | None,
    ) -> dict[str, Any]:
        counts = {f: len(k) for f, k in channels.kept(removed).items()}
        cost = cost_of(channels)
        facts = costs(cost.figures(), left or cost.figures(counts))
        facts |= widths_of(channels, removed) | verdict.facts()
        rows = kept_rows(channels, removed)
        return facts | ({} if rows is None else {"rows": rows.tolist()})


def _carry_notes(
    sparse: Model, dense: Model, channels: Channels, removed: Mapping[str, Sequence[int]]
) -> None:
    """Take the notes on a plan out of a dense model, and note its widths."""
    for note in (PLAN_KEY, MAPS_KEY, ORIGIN_KEY, OPEN_KEY, VOCABULARY_KEY, CONFIG_KEY, SAMPLES_KEY):
        dense.set_metadata(note, None)
    note_widths(dense, channels, removed)
    carry_note(sparse, dense)


def _configuration_facts(model: Model, found: Widths) -> dict[str, Any]:
    """Return the rewritten configurations beside a model, with other widths."""
    files = configurations(model)
    return {"configurations": {n: asdict(rewritten(c, found)) for n, c in files.items()}} if files else {}


@dataclass(frozen=True)
class _DenseForm:
    """One of several equal dense networks.

    Attributes:
        model: The network.
        unfused: A sentence for each factor that runtimes may not fuse.
        fewer: True if branches that depend on no input are gone from it.
        certificate: The verdict of the verifier.
    """

    model: Model
    unfused: list[str]
    fewer: bool
    certificate: CertifyResult


@dataclass(frozen=True)
class _DenseForms:
    """The dense network in several forms, the one that runtimes fuse best first.

    Attributes:
        sparse: The sparse model.
        channels: The groups that were cut.
        removed: Removed channels by group name.
        dense: The network as it was cut.
        hints: The hints of its certificate.
        form: The canonical form that it was cut from.
    """

    sparse: Model
    channels: Channels
    removed: Mapping[str, Sequence[int]]
    dense: Model
    hints: Hints
    form: Form

    def __iter__(self) -> Iterator[_DenseForm]:
        moved, lost = with_scales_in_place(self.dense, self.channels, self.removed)
        yield from self._with_and_without_own_nodes(moved, lost)
        if len(moved.nodes) < len(self.dense.nodes):  # nodes that a cut has put in have moved into constants
            bare = with_scales_in_place(self.dense, self.channels, self.removed, nodes=False)
            yield from self._with_and_without_own_nodes(*bare)

    def _with_and_without_own_nodes(self, whole: Model, unfused: list[str]) -> Iterator[_DenseForm]:
        left = without_dead_branches(whole)
        folded, fewer = with_shared_fills(left, self.sparse.index.producers), left is not whole
        own = with_own_nodes(self.sparse, folded, self.form, but=self.hints)
        for model in (own,) if own is folded else (own, folded):
            certificate = _certified(self.sparse, model, self.hints)
            yield _DenseForm(model, unfused, fewer, certificate)


def _chosen(forms: Iterable[_DenseForm]) -> _DenseForm:
    """Return the first form that is certified; the first of all where none is."""
    first: _DenseForm | None = None
    for found in forms:
        if found.certificate.certified:
            return found
        first = first or found
    assert first is not None
    return first


def _certified(sparse: Model, dense: Model, hints: Hints) -> CertifyResult:
    """Certify a dense model, a large tensor in memory at a time."""
    return certify(sparse.proto, dense.proto, hints, read=array_of, forget=release)


def _without_vocabulary(model: Model) -> Model:
    """Return a model without removable vocabulary rows: zeros alone are not the consent of the caller."""
    if VOCABULARY_KEY not in model.metadata():
        return model
    model = model.copy()
    model.set_metadata(VOCABULARY_KEY, None)
    return model
