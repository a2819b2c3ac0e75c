"""If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from onnxprune.algebra.sizes.algebra import Extent, Size, Value, as_extent, choose
from onnxprune.algebra.sizes.facts import ContradictionError
from onnxprune.algebra.sizes.tensors import BOOL, INT64, Shape, TensorSequence, Values
from onnxprune.errors import ModelError
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.sequence_values import UNKNOWN, VARIES, either
from onnxprune.ops.sizes.table import size_rule
from onnxprune.ops.sizes.turns import turns_of

_ROUNDS = 4
"""Turns after which the states of a loop are taken to have changed in every way possible."""


@size_rule("If")
def if_(node: SizedNode) -> None:
    """The results of the taken branch; a choice between both where the condition depends on the input."""
    if node.kind(0) not in (BOOL, None):
        raise ContradictionError("its condition is no truth value")
    condition = node.elements(0)
    truth: Value = condition[0] if condition else node.walk.facts.fresh(node.inputs[0], 0, 1)
    truth = node.walk.assumed(node.inputs[0], truth)
    node.walk.decide(node, bool(truth) if isinstance(truth, int) else None)
    bodies = {True: node.required("then_branch"), False: node.required("else_branch")}
    if isinstance(truth, int):
        body = bodies[bool(truth)]
        node.walk.follow(body)
        for place, value in enumerate(body.output):
            _hand_out(node, place, value.name)
        return
    walked = {taken: body for taken, body in bodies.items() if _possible(node, truth, body, taken=taken)}
    if not walked:
        raise ContradictionError("neither branch fits")
    if len(walked) == 2 and _ranks_differ(node, walked):
        walked = _without_misfits(node, truth, walked)
    for place in range(len(node.outputs)):
        names = [body.output[place].name for body in walked.values()]
        if len(names) == 1:
            _hand_out(node, place, names[0])
        else:
            _choose(node, place, truth, names)


def _possible(node: SizedNode, truth: Value, body: onnx.GraphProto, *, taken: bool) -> bool:
    """Go through a branch that may not run; one that does not fit is not taken."""
    facts = node.walk.facts
    sure, facts.sure = facts.sure, False
    demands = dict(facts.possible)
    try:
        with node.walk.assuming(node.inputs[0], truth, taken):
            node.walk.follow(body)
    except ModelError as error:
        facts.possible = demands
        branch = "then" if taken else "else"
        facts.assumptions[f"the {branch} branch of node '{node.label}' is not taken: {error.message}"] = None
        return False
    finally:
        facts.sure = sure
    return True


def _ranks_differ(node: SizedNode, bodies: Mapping[bool, onnx.GraphProto]) -> bool:
    """Return whether two branches make tensors of different rank."""
    for place in range(len(node.outputs)):
        shapes = [node.walk.shape(body.output[place].name) for body in bodies.values()]
        if len({len(s) for s in shapes if s is not None}) > 1:
            return True
    return False


def _without_misfits(
    node: SizedNode, truth: Value, bodies: Mapping[bool, onnx.GraphProto]
) -> dict[bool, onnx.GraphProto]:
    """Leave out a branch whose results the next nodes cannot take: the network does not run with it."""
    fit = {}
    for taken, body in bodies.items():
        for place, value in enumerate(body.output):
            _hand_out(node, place, value.name)
        if node.walk.fits_ahead():
            fit[taken] = body
    if len(fit) != 1:
        return dict(bodies)
    (taken,) = fit
    node.walk.decide(node, taken)
    node.walk.facts.settle(
        truth, truth=taken, node=node.label, reason="the other branch fits nothing behind it"
    )
    return fit


def _hand_out(node: SizedNode, place: int, name: str) -> None:
    walk = node.walk
    if not walk.pass_on(name, node.outputs[place]):
        value = walk.value(name) if walk.has_value(name) else None
        node.put(place, walk.shape(name), walk.tensors.types.get(name, 0), value)


def _choose(node: SizedNode, place: int, truth: Value, names: Sequence[str]) -> None:
    walk = node.walk
    kinds = [walk.tensors.kinds.get(name) for name in names]
    if kinds[0] is not None:
        walk.tensors.kinds[node.outputs[place]] = kinds[0]
        walk.tensors.sequences[node.outputs[place]] = _chosen_sequence(node, truth, names)
        return
    kind = walk.tensors.types.get(names[0], walk.tensors.types.get(names[1], 0))
    one, other = walk.shape(names[0]), walk.shape(names[1])
    if one is None or other is None or len(one) != len(other):
        node.put(place, None, kind)
        walk.tensors.unknown[node.outputs[place]] = "its rank depends on the branch that is taken"
        return
    a, b = (walk.value(name) if walk.has_value(name) else None for name in names)
    value = None
    if a is not None and b is not None and a.shape == b.shape:
        value = _chosen(truth, a, b)
    node.put(place, [choose(truth, x, y) for x, y in zip(one, other, strict=True)], kind, value)


def _chosen_sequence(node: SizedNode, truth: Value, names: Sequence[str]) -> TensorSequence:
    one, other = (node.walk.tensors.sequences.get(name, UNKNOWN) for name in names)
    if one.count is None or other.count is None:
        return either(one, other, None)
    return either(one, other, as_extent(choose(truth, one.count, other.count)))


def _chosen(truth: Value, a: Values, b: Values) -> Values:
    found = np.empty(a.shape, object)
    flat = found.reshape(-1)
    for k, (x, y) in enumerate(zip(a.ravel(), b.ravel(), strict=True)):
        flat[k] = choose(truth, x, y)
    return found


@size_rule("Scan")
def scan(node: SizedNode) -> None:
    """A body for each element along an axis of the scanned inputs."""
    if node.opset < 9:
        node.ask()
        return
    body: onnx.GraphProto = node.required("body")
    scanned = int(node.required("num_scan_inputs"))
    states = len(node.inputs) - scanned
    axes = node.attribute("scan_input_axes") or [0] * scanned
    given = [node.shape(k) for k in range(states)]
    steps: Extent | None = None
    for k, axis in enumerate(axes):
        shape = node.shape(states + k)
        if shape is None:
            given.append(None)
            continue
        at = node.axis(axis, len(shape))
        given.append((*shape[:at], *shape[at + 1 :]))
        steps = shape[at] if steps is None else node.same(steps, shape[at], "steps of the scanned inputs")
    places = range(len(node.inputs))
    _run(node, body, given, [node.kind(k) for k in places], states, 0, steps)


@size_rule("Loop")
def loop(node: SizedNode) -> None:
    """A body for each turn; how many there are may depend on the data."""
    body: onnx.GraphProto = node.required("body")
    walk = node.walk
    walk.put(body.input[0].name, [], INT64)
    walk.put(body.input[1].name, [], BOOL)
    places = range(2, len(node.inputs))
    given = [node.shape(k) for k in places]
    steps = turns_of(node, body)
    walk.note_turns(node.outputs, steps)
    kinds = [node.kind(k) for k in places]
    _run(node, body, given, kinds, len(given), 2, steps)


def _run(
    node: SizedNode,
    body: onnx.GraphProto,
    given: list[Shape | None],
    kinds: Sequence[int | None],
    states: int,
    ahead: int,
    steps: Extent | None,
) -> None:
    """Go through a body until its states have no size that changes from turn to turn.

    Args:
        node: The Loop or Scan.
        body: Its body.
        given: The shapes of the inputs of the body, the first ``ahead`` of them left out.
        kinds: Their element types.
        states: Number of them that are carried from turn to turn.
        ahead: Inputs of the body that are not given: the turn and the condition of a Loop.
        steps: The number of turns, ``None`` where it is not known.
    """
    facts, tensors = node.walk.facts, node.walk.tensors
    first = 1 if ahead else 0
    start = list(given[:states])
    begun = [_sequence_at(node, node.inputs[ahead + k]) for k in range(states)]
    held = list(begun)
    mark = len(facts.algebra.atoms)
    sure, facts.sure = facts.sure, False
    told = dict(facts.assumptions), dict(facts.undecided)
    try:
        for _ in range(_ROUNDS):
            facts.assumptions, facts.undecided = dict(told[0]), dict(told[1])
            made = _turn(node, body, given, held, kinds, ahead)
            carried = [
                _widened(node, k, one, other)
                for k, (one, other) in enumerate(
                    zip(given[:states], made[first : first + states], strict=True)
                )
            ]
            grown = [_sequence_at(node, value.name) for value in body.output[first : first + states]]
            widened = [
                _widened_sequence(node, k, *both, mark)
                for k, both in enumerate(zip(held, grown, strict=True))
            ]
            settled = carried == list(given[:states]) and widened == held
            given, held = [*carried, *given[states:]], widened
            if settled:
                break
        else:
            given = [*(None for _ in range(states)), *given[states:]]
            held = [one and TensorSequence(None, None, one.element) for one in held]
            made = _turn(node, body, given, held, kinds, ahead)
    finally:
        facts.sure = sure
    _carry_out(node, body, start, given[:states], first)
    for k, (before, during) in enumerate(zip(begun, held, strict=True)):
        if before is not None and during is not None and k < len(node.outputs):
            after = _sequence_at(node, body.output[first + k].name)
            count = _count_after(before, during, after, steps)
            tensors.sequences[node.outputs[k]] = replace(during, count=count)
    _stack(node, body, made[first + states :], states, steps, mark, first)


def _turn(
    node: SizedNode,
    body: onnx.GraphProto,
    given: Sequence[Shape | None],
    held: Sequence[TensorSequence | None],
    kinds: Sequence[int | None],
    ahead: int,
) -> list[Shape | None]:
    walk = node.walk
    for value, shape, kind, name in zip(body.input[ahead:], given, kinds, node.inputs[ahead:], strict=True):
        if not walk.pass_on(name, value.name):
            walk.put(value.name, shape, kind)
    for value, sequence in zip(body.input[ahead:], held, strict=False):
        if sequence is not None:
            walk.tensors.sequences[value.name] = sequence
    walk.follow(body)
    return [walk.shape(value.name) for value in body.output]


def _sequence_at(node: SizedNode, name: str) -> TensorSequence | None:
    """Return a sequence as it is known by now; ``None`` for other values."""
    tensors = node.walk.tensors
    return tensors.sequences.get(name, UNKNOWN) if tensors.kinds.get(name) == "sequence" else None


def _widened_sequence(
    node: SizedNode, place: int, one: TensorSequence | None, other: TensorSequence | None, mark: int
) -> TensorSequence | None:
    """Return a sequence whose number of elements is a symbol where it moves, and so are sizes that move."""
    if one is None or other is None or one == other:
        return one and other
    count = one.count
    if count != other.count and not (count is not None and _of_one_turn(node, count, mark)):
        count = node.fresh(place, "count")
    found = either(one, other, count)
    if found.common is None:
        return found
    sizes = tuple(VARIES if _of_one_turn(node, size, mark) else size for size in found.common)
    return replace(found, common=sizes)


def _count_after(
    before: TensorSequence,
    during: TensorSequence,
    after: TensorSequence | None,
    steps: Extent | None,
) -> Extent | None:
    """Return the number of elements at the end, where each turn adds as many; ``None`` if not known."""
    if during.count == before.count:
        return before.count
    if before.count is None or during.count is None or steps is None or after is None or after.count is None:
        return None
    added = after.count - during.count
    return as_extent(before.count + added * steps) if isinstance(added, int) else None


def _widened(node: SizedNode, place: int, one: Shape | None, other: Shape | None) -> Shape | None:
    """Return a shape whose sizes that move are symbols."""
    if one is None or other is None or len(one) != len(other):
        return None
    return tuple(
        a if a == b else node.fresh(place, k) for k, (a, b) in enumerate(zip(one, other, strict=True))
    )


def _carry_out(
    node: SizedNode,
    body: onnx.GraphProto,
    start: Sequence[Shape | None],
    last: Sequence[Shape | None],
    first: int,
) -> None:
    """Define a state at the end: of the size it had, or of an unknown one."""
    for k, (one, other) in enumerate(zip(start, last, strict=True)):
        name = body.output[first + k].name
        kind = node.walk.tensors.types.get(name, 0)
        if node.walk.tensors.kinds.get(name) is not None:
            node.walk.tensors.kinds[node.outputs[k]] = node.walk.tensors.kinds[name]
            continue
        node.put(k, None if other is None else _widened(node, k, one, other), kind)


def _stack(
    node: SizedNode,
    body: onnx.GraphProto,
    made: Sequence[Shape | None],
    states: int,
    steps: Extent | None,
    mark: int,
    first: int,
) -> None:
    """Lay the outputs of each turn along a new axis; a symbol new in a turn differs in each."""
    axes = node.attribute("scan_output_axes") or [0] * len(made)
    if steps is None:
        steps = node.walk.facts.fresh(f"{node.label}.turns")
    for k, shape in enumerate(made):
        place = states + k
        kind = node.walk.tensors.types.get(body.output[first + place].name, 0)
        if shape is None:
            node.put(place, None, kind)
            continue
        sizes: list[Value] = [
            node.fresh(place, j) if _of_one_turn(node, size, mark) else size for j, size in enumerate(shape)
        ]
        sizes.insert(node.axis(axes[k], len(shape) + 1), steps)
        node.put(place, sizes, kind)


def _of_one_turn(node: SizedNode, size: Extent, mark: int) -> bool:
    atoms = node.walk.facts.algebra.atoms
    return isinstance(size, Size) and any(k >= mark and atoms[k].fresh for k in size.inside)
