"""The conclusion from the runs of a check: a verdict on every output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxprune.evaluate.equivalence.judgement import allowed, is_beyond_measure, passes, passes_by_flips
from onnxprune.evaluate.equivalence.measure import Record
from onnxprune.evaluate.equivalence.overflow import overflowing
from onnxprune.evaluate.equivalence.paths import ComputationGraph
from onnxprune.evaluate.equivalence.runs import EquivalenceCheck, Evidence
from onnxprune.evaluate.equivalence.tails import Pair, Tail, common_tail, other_choice
from onnxprune.evaluate.equivalence.tensor_comparison import Comparison
from onnxprune.evaluate.equivalence.verdict import OutputVerdict, Status
from onnxprune.evaluate.runnable import steps, without_rounding
from onnxprune.ops.spec import spec_of
from onnxprune.runtime import ONE_SIDE

_OTHER_CHOICE = "{} has other settings there, which made no difference for any input that was tried"


def conclude(check: EquivalenceCheck) -> tuple[OutputVerdict, ...]:
    """Judge every output by all that was run."""
    usual = Conclusion(check, Evidence(check.comparison.records, check.runs)).outputs()
    if any(output.status != "agree" for output in usual):
        return usual
    for evidence in check.apart.values():
        found = Conclusion(check, evidence).outputs() if evidence.runs else ()
        if any(output.status == "differ" for output in found):
            return tuple(f if f.status == "differ" else u for u, f in zip(usual, found, strict=True))
    return tuple(_with_settings(check, output) for output in usual)


def _with_settings(check: EquivalenceCheck, found: OutputVerdict) -> OutputVerdict:
    """Return the verdict on an output that agrees: "not shown" where nodes before it have other settings."""
    other = other_choice(*check.graphs, found.name) if found.name in check.subjects.outputs else ""
    return replace(found, status="not shown", reason=_OTHER_CHOICE.format(other)) if other else found


class Conclusion:
    """The conclusion from the runs of a check."""

    def __init__(self, examination: EquivalenceCheck, evidence: Evidence) -> None:
        self._of = examination
        self._records, self._runs = evidence.records, evidence.runs
        self._apart, self._exact = evidence.apart, evidence.exact
        self._noises: dict[Pair, Record] | None = None
        self._limits: dict[Pair, Record] | None = None
        self._plain: dict[Pair, Record] | None = None

    def outputs(self) -> tuple[OutputVerdict, ...]:
        """Judge the outputs, and the operands of the nodes that were cut off."""
        made = self._of.subjects
        cut = [self._judge(pair[0], pair, []) for pair in made.points]
        return (*(self._judge(o, (o, o), self._of.points[o]) for o in made.outputs), *cut)

    def _judge(self, name: str, pair: Pair, points: Sequence[Pair]) -> OutputVerdict:
        record = self._records[pair]
        comparable = [p for p in points if not self._is_other_layout(p)]
        bad = [p for p in comparable if not self._passes(p, saturates=self._saturates(p, comparable))]
        fits = self._passes(pair, saturates=bool(comparable))
        found = OutputVerdict(
            name,
            "agree",
            record.worst.max_rel_error,
            record.worst.max_abs_error,
            self._allowed(pair, fits, saturates=bool(comparable)),
            before=tuple(p[0] for p in points),
            noise=self._size_of_noise(pair),
        )
        if fits and self._counts(record) and not bad:
            return found
        if (shown := self._by_tail(found, pair)) is not None:
            return shown
        status, why = self._fault(pair, fits, bad)
        return replace(found, status=status, reason=why)

    def _counts(self, record: Record) -> bool:
        """Return whether a tensor that agrees is evidence; runs that are judged apart need not vary."""
        return record.shown or self._apart

    def _saturates(self, pair: Pair, judged: Sequence[Pair]) -> bool:
        """Return whether a tensor is made by a saturating operator whose operand is judged as well."""
        one, two = (graph.makers.get(name) for graph, name in zip(self._of.graphs, pair, strict=True))
        if one is None or two is None or one.op_type != two.op_type or not spec_of(one).saturates:
            return False
        return (one.input[0], two.input[0]) in judged

    def _is_gated(self, pair: Pair) -> bool:
        """Return whether a tensor is multiplied by saturating functions of large sums.

        Where the sums inside of a gate are large, their rounding alone decides which of its results is zero.
        The usual inputs, which are judged apart, make no such sums.
        """
        if not self._apart:
            return False
        for graph, name in zip(self._of.graphs, pair, strict=True):
            node = graph.makers.get(name)
            if node is None or name not in node.output[: spec_of(node).gates]:
                return False
        return True

    def _allowed(self, pair: Pair, fits: bool, saturates: bool) -> float:
        """Return the tolerance of an output: where steps flip, the noise that it passed by."""
        record, noise = self._records[pair], self._noise_of(pair)
        usual = allowed(record, noise, saturates)
        flips = fits and noise is not None and record.worst.max_rel_error > usual
        return noise.worst.max_rel_error if flips and noise is not None else usual

    def _fault(self, pair: Pair, fits: bool, bad: Sequence[Pair]) -> tuple[Status, str]:
        """Return the status of an output that does not agree, and the reason.

        Args:
            pair: The output.
            fits: True if its differences are within the tolerance.
            bad: Operands that it picks from, or saturates, whose differences are not.
        """
        record = self._records[pair]
        if fits and bad:
            picked = self._records[bad[0]]
            why = f"it agrees, but '{picked.name}', which it picks from, does not: {self._why(picked)}"
            return "differ", why
        if fits:
            return "not shown", _unshown(record)
        if not record.worst.reason and all(map(self._is_magnified, (*bad, pair))):
            return "not shown", "the network magnifies the last place of its weights beyond the tolerance"
        if record.worst.reason in ("", ONE_SIDE) and (large := self._overflow(record)) is not None:
            return "not shown", large
        return "differ", self._why(record)

    def _is_magnified(self, pair: Pair) -> bool:
        return is_beyond_measure(self._records[pair], self._limit_of(pair))

    def _passes(self, pair: Pair, saturates: bool = False) -> bool:
        record, gated = self._records[pair], self._is_gated(pair)
        if passes(record, None, saturates, gated) and not record.rounded:
            return True
        if record.worst.reason and not record.rounded:
            return False
        noise = self._noise[pair]
        if passes(record, noise, saturates, gated):
            return self._passes_unrounded(pair, saturates)
        return passes_by_flips(record, noise) and self._is_equal_unrounded(pair, saturates)

    def _passes_unrounded(self, pair: Pair, saturates: bool) -> bool:
        """Return whether a tensor agrees without the rounding of activations before it."""
        if not self._records[pair].rounded:
            return True
        made = self._of.subjects
        one, two = steps(made.reference), steps(made.candidate)
        if len(one) == len(two) and one != two:  # other steps make other numbers, if only a little
            return False
        plain = self._unrounded.get(pair)
        return plain is None or plain.rounded or passes(plain, None, saturates)

    def _is_equal_unrounded(self, pair: Pair, saturates: bool) -> bool:
        """Return whether a tensor is seen to agree without any rounding of activations before it."""
        plain = self._unrounded.get(pair)
        is_seen = plain is not None and not plain.rounded
        return is_seen and self._passes_unrounded(pair, saturates)

    def _is_other_layout(self, pair: Pair) -> bool:
        """Return whether two tensors are no counterparts, for they lie in other shapes."""
        return self._records[pair].worst.reason.startswith(("shape ", "type "))

    def _by_tail(self, found: OutputVerdict, pair: Pair) -> OutputVerdict | None:
        """Judge an output by the operands of the last nodes common to both models; `None` if that fails."""
        tail = common_tail(*self._of.graphs, pair[0]) if pair[0] == pair[1] else Tail((pair,), ())
        if pair in tail.ends:
            return None
        comparison = self._of.compared(tail.ends) if tail.ends else None
        records = list(comparison.over(self._runs).values()) if comparison is not None else []
        if comparison is not None and not all(self._counts(r) and passes(r) for r in records):
            noises = comparison.noise(self._runs)
            judged = comparison.records.items()
            if not all(self._counts(r) and passes(r, noises[p]) for p, r in judged):
                return None
        worst = max(records, key=lambda r: r.worst.max_rel_error, default=None)
        errors = (worst.worst.max_rel_error, worst.worst.max_abs_error) if worst else (0.0, 0.0)
        why = f"judged before {', '.join(tail.jumping)}" if tail.jumping else ""
        return replace(
            found,
            max_rel_error=errors[0],
            max_abs_error=errors[1],
            allowed=allowed(worst) if worst else found.allowed,
            by=tuple(p[0] for p in tail.ends),
            reason=why,
        )

    @property
    def _noise(self) -> dict[Pair, Record]:
        if self._noises is None:
            self._noises = self._of.comparison.noise(self._runs, self._is_enough)
        return self._noises

    def _is_enough(self, noises: Mapping[Pair, Record]) -> bool:
        """Return true if all differences are rounding by the noise seen so far: more noise allows no less."""
        return all(passes(record, noises[pair]) for pair, record in self._records.items())

    @property
    def _unrounded(self) -> dict[Pair, Record]:
        """The same tensors, the activations of both models not rounded."""
        if self._plain is None:
            made, protos = self._of.subjects, []
            for proto in (made.reference, made.candidate):
                copy = type(proto)()
                copy.CopyFrom(proto)
                protos.append(copy)
            if sum(without_rounding(proto) for proto in protos):
                graphs = ComputationGraph.of(protos[0]), ComputationGraph.of(protos[1])
                interface = self._of.comparison.interface
                comparison = Comparison(protos[0], protos[1], self._records, graphs, interface)
                self._plain = comparison.over(self._runs)
                self._of.notes.append("activations are compared without their quantisation too")
            else:
                self._plain = {}
        return self._plain

    def _noise_of(self, pair: Pair) -> Record | None:
        return self._noises[pair] if self._noises is not None else None

    def _limit_of(self, pair: Pair) -> Record | None:
        """Return the noise that may be too large for a verdict: of exact inputs that of the weights."""
        if not self._exact or self._noises is None:
            return self._noise_of(pair)
        if self._limits is None:
            self._limits = self._of.comparison.noise(self._runs, exact=True)
        return self._limits[pair]

    def _size_of_noise(self, pair: Pair) -> float | None:
        noise = self._noise_of(pair)
        return noise.worst.max_rel_error if noise is not None else None

    def _overflow(self, record: Record) -> str | None:
        """Return the reason why a difference shows nothing: both models leave the range of their numbers."""
        made, runs = self._of.subjects, [r for r in self._runs if r.where == record.where]
        name = overflowing(made.reference, runs)
        if name is None or overflowing(made.candidate, runs) is None:
            return None
        return f"with {record.where} '{name}' is no number, or next to infinity, in both models"

    def _why(self, record: Record) -> str:
        if record.worst.reason:
            return f"{record.worst.reason}, with {record.where}"
        error = f"relative error {record.worst.max_rel_error:.2e}, allowed {allowed(record):.0e}"
        if record.worst.max_rel_error <= allowed(record):
            error = f"relative error {_worst_line(record):.2e} in some of its channels"
        return f"{error}, with {record.where}"


def _unshown(record: Record) -> str:
    """Return the reason why an output shows no difference, with a hint of the missing inputs."""
    if not record.finite:
        return "it is no finite number for any input that was drawn; give samples of real inputs with --data"
    return "it is the same for all inputs that were drawn; give samples of real inputs with --data"


def _worst_line(record: Record) -> float:
    ratios = [
        float(e / s) if s else float("inf")
        for line in record.known_lines().values()
        for e, s in zip(line.error, line.scale, strict=True)
        if e
    ]
    return max(ratios, default=0.0)
