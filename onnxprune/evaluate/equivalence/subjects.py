"""Two models made ready to be compared: changed alike where this runtime cannot run them as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import onnx

from onnxprune.errors import LimitError, MixedTypesError, ModelError
from onnxprune.evaluate.equivalence.paths import ComputationGraph
from onnxprune.evaluate.equivalence.tails import Pair, common_tail
from onnxprune.evaluate.runnable import (
    RunnableModel,
    StandIn,
    cut_before,
    reproducible,
    shown_by,
    unknown_operators,
    widened,
)
from onnxprune.ir import Model, anonymous, every_graph, label
from onnxprune.ir.canonical.canonicalise import canonicalise
from onnxprune.runtime import Session


class DifferenceError(Exception):
    """The two models cannot compute the same; the message is the reason."""


class UnloadableError(DifferenceError):
    """The runtime loads the reference, but not the candidate. Either may take no inputs at all."""


@dataclass(frozen=True)
class Subjects:
    """A reference and a candidate, ready to run.

    Attributes:
        reference: The model that is right by definition.
        candidate: The model to be judged.
        outputs: Outputs that both still have.
        points: Operands of the nodes that were cut off.
        notes: Changes made in both, and tensors that are not compared.
        stands_in: True if operators that this runtime does not know are replaced in both.
    """

    reference: onnx.ModelProto
    candidate: onnx.ModelProto
    outputs: tuple[str, ...]
    points: tuple[Pair, ...]
    notes: tuple[str, ...]
    stands_in: bool = False


def subjects(reference: Model, candidate: Model, stand_in: bool = True) -> Subjects:
    """Make two models of the same interface ready.

    Args:
        reference: The model that is right by definition.
        candidate: The model to be judged.
        stand_in: Let operators that this runtime does not know be replaced, if the runtime loads the result.

    Raises:
        DifferenceError: Their nodes that cannot be run differ.
        UnloadableError: Only the reference can be loaded.
        ModelError: The reference cannot be run by this runtime in any form, or nothing would be shown.
    """
    try:
        return _subjects(reference, candidate, stand_in)
    except DifferenceError:
        pair = (reference, candidate)
        if not any(unknown_operators(m.proto) and (m.nested or m.proto.functions) for m in pair):
            raise
    # one of them may have resolved the body or the local function that holds such an operator
    made = _subjects(canonicalise(reference)[0], canonicalise(candidate)[0], stand_in)
    return replace(made, notes=(*made.notes, "both are compared in canonical form"))


def _subjects(reference: Model, candidate: Model, stand_in: bool) -> Subjects:
    """Make two models ready as they are."""
    protos = [model.copy().proto for model in (reference, candidate)]
    remarks = tuple(dict.fromkeys(sentence for proto in protos for sentence in reproducible(proto)))
    unknown = unknown_operators(protos[0]) | unknown_operators(protos[1])
    names = tuple(o.name for o in protos[0].graph.output)
    if not unknown and all(o.type.HasField("tensor_type") for o in protos[0].graph.output):
        return _runnable(Subjects(protos[0], protos[1], names, (), remarks))
    if stand_in:
        with contextlib.suppress(ModelError, DifferenceError):  # no stand-in for results of such types
            return _runnable(_cut(protos, unknown, "shifted", remarks))
    return _runnable(_cut(protos, unknown, None, remarks))


def _cut(
    protos: list[onnx.ModelProto],
    unknown: set[tuple[str, str]],
    stand_in: StandIn | None,
    remarks: tuple[str, ...],
) -> Subjects:
    one, two = (cut_before(proto, unknown, stand_in) for proto in protos)
    kept = _places(_bare(one), _bare(two))
    if kept is None:
        raise DifferenceError("the operators that this runtime does not know are not the same")
    if len(kept) < len(one.nodes) and not stand_in:
        raise ModelError("only one of the two has all of the operators that this runtime does not know")
    if one.lost != two.lost:
        raise DifferenceError("other outputs depend on operators that this runtime does not know")
    operands = zip((one.operands[k] for k in kept), two.operands, strict=True)
    points = dict.fromkeys(p for pair in operands for p in zip(*pair, strict=True))
    points |= dict.fromkeys(_before_lost(protos, one, two, points))
    if any((a is None) != (b is None) for a, b in points):
        raise DifferenceError("operators that this runtime does not know read other operands")
    found = tuple((a, b) for a, b in points if a is not None and b is not None)
    left = [o.name for o in one.proto.graph.output if not any(o.name == a for a, _ in found)]
    outputs = [o.name for o in protos[0].graph.output if o.name not in one.lost]
    if not left and not found:
        raise ModelError("there is nothing to compare before operators that this runtime does not know")
    notes = (*remarks, *_about(one, unknown, stand_in is not None))
    return Subjects(one.proto, two.proto, tuple(outputs), found, notes, stand_in is not None)


def _before_lost(
    protos: list[onnx.ModelProto],
    one: RunnableModel,
    two: RunnableModel,
    points: Collection[tuple[str | None, str | None]],
) -> Iterator[Pair]:
    """Yield the tensors that decide the outputs that are lost: those before the last part common to both.

    Operands of the nodes that were cut off, `points`, are compared in any case.

    Raises:
        ModelError: That part begins behind a node that was cut off: nothing is known of tensors there.
    """
    graphs = [ComputationGraph.of(proto) for proto in protos]
    remaining = [{o for node in made.proto.graph.node for o in node.output} for made in (one, two)]
    known = {(shown_by(a), shown_by(b)) for a, b in points if a is not None and b is not None}
    for output in one.lost:
        for pair in common_tail(graphs[0], graphs[1], output, known).ends:
            if not (pair[0] in remaining[0] and pair[1] in remaining[1]):
                raise ModelError(
                    f"output '{output}' depends on operators that this runtime does not know, and the nodes "
                    "behind them are not the same in both",
                    hint="compare the models where these operators can be run, or write the result with "
                    "--unverified",
                )
            yield pair


def _bare(cut: RunnableModel) -> list[tuple[onnx.NodeProto, int]]:
    """Return the nodes that were cut off, without names, and the number of their operands."""
    return [(anonymous(n)[0], len(names)) for n, names in zip(cut.nodes, cut.operands, strict=True)]


def _places(nodes: Sequence[object], fewer: Sequence[object]) -> list[int] | None:
    """Return the places of nodes in a list that may have more of them, `None` where one is missing there.

    The results of the others do not matter, if the outputs agree with a stand-in for them.
    """
    found: list[int] = []
    for node in fewer:
        start = found[-1] + 1 if found else 0
        place = next((k for k in range(start, len(nodes)) if nodes[k] == node), None)
        if place is None:
            return None
        found.append(place)
    return found


def _about(cut: RunnableModel, unknown: set[tuple[str, str]], stand_in: bool) -> list[str]:
    """State the nodes that were cut off."""
    strangers = [n for n in cut.nodes if any((m.domain, m.op_type) in unknown for m in _inside(n))]
    names = ", ".join(dict.fromkeys(f"{node.op_type} '{label(node)}'" for node in strangers))
    remarks = [f"compared up to {names}, which this runtime does not know"] if names else []
    if stand_in and any(node.output and node.output[0] not in cut.lost for node in strangers):
        remarks = [
            f"{names}, which this runtime does not know, is replaced by a function of its first operand"
        ]
    lost = ", ".join(f"'{name}'" for name in cut.lost)
    return [*remarks, *([f"{lost}: the tensors before the output are compared instead"] if lost else [])]


def _inside(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return a node and all nodes of its bodies."""
    bodies = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return [node, *(n for body in bodies for g in every_graph(body) for n in g.node)]


def _runnable(made: Subjects) -> Subjects:
    """Return the two as they are where the runtime loads them, else as float32."""
    try:
        Session(made.reference, optimize=False)
    except MixedTypesError:
        raise
    except ModelError:
        if not widened(made.reference):
            raise
        widened(made.candidate)
        note = "float16 and bfloat16 are computed as float32 in both"
        made = replace(made, notes=(*made.notes, note))
        Session(made.reference, optimize=False)
    try:
        Session(made.candidate, optimize=False)
    except LimitError:
        raise
    except ModelError as error:
        raise UnloadableError(f"only the first model can be run: {error.message}") from error
    return made
