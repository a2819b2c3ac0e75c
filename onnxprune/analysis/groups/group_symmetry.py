"""The symmetry of a group: the maps that all operators its channels pass commute with.

Each operator has its own set of maps that it commutes with (`onnxprune.ops.symmetry`); the symmetry is the
meet of those sets, over every node that carries the factor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx

from onnxprune.algebra.axes import Dim, Factor, Sum, factors, resolve
from onnxprune.analysis.groups.channels import Channels, Group
from onnxprune.analysis.groups.freedom import Outer
from onnxprune.ir import captured, label
from onnxprune.ops.axes import Typing
from onnxprune.ops.spec import spec_of
from onnxprune.ops.symmetry import DualPair, Effect, Role, Symmetry, Vector, meet
from onnxprune.ops.symmetry.passage import Passage
from onnxprune.ops.symmetry.symmetry_kinds import Norm, permutation

FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
HALF = onnx.TensorProto.FLOAT16


@dataclass(frozen=True)
class Limit:
    """Why a group allows no more maps: the node, its operator, and a sentence."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class GroupSymmetry:
    """The symmetry of a group.

    Attributes:
        group: The group.
        symmetry: The maps along its axis that the network, as it is, commutes with.
        opened: Those that it commutes with once normalisations are absorbed (`onnxprune.decisions.bases`).
        limit: Reason against a larger symmetry, ``None`` where there is none.
        roles: Constants that a change of basis rewrites.
        sides: 1 for each activation in the basis, −1 for each in the dual one.
        outer: Factors in each element of which the basis may be another.
    """

    group: Group
    symmetry: Symmetry
    opened: Symmetry
    limit: Limit | None = None
    roles: tuple[Role, ...] = ()
    sides: Mapping[str, int] = field(default_factory=dict, repr=False)
    outer: Outer = ()

    @property
    def vectors(self) -> list[Vector]:
        """The constants that a change of basis rewrites."""
        return [role for role in self.roles if isinstance(role, Vector)]

    @property
    def pairs(self) -> list[DualPair]:
        """The sums of two activations over the axis."""
        return [role for role in self.roles if isinstance(role, DualPair)]

    @property
    def norms(self) -> list[Norm]:
        """The normalisations along the axis."""
        return [role for role in self.roles if isinstance(role, Norm)]


def symmetries(channels: Channels) -> list[GroupSymmetry]:
    """Return the symmetry of every group, in their order."""
    carrying = _carrying(channels.typing, {g.factor for g in channels.groups})
    return [_symmetry(channels, group, carrying[group.factor]) for group in channels.groups]


def _carrying(typing: Typing, chosen: set[Factor]) -> dict[Factor, list[int]]:
    """Return the nodes that carry each factor, by their numbers."""
    lying = {name: {f for d in dims for f in factors(d)} & chosen for name, dims in typing.axes.items()}
    found: dict[Factor, list[int]] = defaultdict(list)
    for index, node in enumerate(typing.nodes):
        here: set[Factor] = set()
        for name in (*node.input, *node.output, *captured(node)):
            here |= lying.get(name, set())
        for factor in here:
            found[factor].append(index)
    return found


def _symmetry(channels: Channels, group: Group, nodes: Sequence[int]) -> GroupSymmetry:
    typing = channels.typing
    now = opened = Symmetry.LINEAR
    limit: Limit | None = None
    roles: list[Role] = []
    for index in nodes:
        effect = effect_of(typing, group.factor, index)
        roles += effect.roles
        if meet(opened, effect.opened) is not opened or (
            limit is None and effect.symmetry is not Symmetry.LINEAR
        ):
            node = typing.nodes[index]
            limit = Limit(label(node), node.op_type, effect.reason or "it keeps lengths along this axis only")
        now, opened = meet(now, effect.symmetry), meet(opened, effect.opened)
    outer = channels.freedoms.get(group.name, ())
    found = GroupSymmetry(group, now, opened, limit, tuple(roles), outer=outer)
    if group.name in channels.shared:
        return _limited(
            found, Symmetry.PERMUTATION, Limit(group.name, "graph", "the caller feeds or reads it")
        )
    for vector in found.vectors:
        kind, reason = _constant(channels, group, vector)
        if reason:
            node = typing.nodes[vector.node]
            found = _limited(found, kind, Limit(label(node), node.op_type, reason))
    return _with_sides(typing, found, nodes)


def effect_of(typing: Typing, factor: Factor, index: int) -> Effect:
    """Return the effect of a node on a factor; permutations alone for operators without a rule."""
    node = typing.nodes[index]
    rule = spec_of(node).symmetry
    if node.op_type == "Constant" and node.output[0] in typing.model.constants:
        return Effect(Symmetry.LINEAR)
    if rule is None:
        return permutation("it is not known to commute with more than permutations")
    passage = Passage(typing, index, factor)
    for name in (*passage.flows, *(o for o in passage.outputs if not passage.is_constant(o))):
        dims = typing.axes[name]
        if len(passage.axes(name)) > 1 or any(_repeats(f) for f in (_within(d, factor) for d in dims)):
            return permutation("the axis meets itself")
        if typing.shapes.types.get(name) not in (*FLOATS, HALF):
            return permutation("its numbers are not real")
    return rule(passage)


def _within(dim: Dim, factor: Factor) -> list[int]:
    """Return the number of times that a factor occurs in each part of a sum."""
    found = resolve(dim)
    parts = found.parts if isinstance(found, Sum) else (found,)
    return [factors(part).count(factor) for part in parts]


def _repeats(counts: Iterable[int]) -> bool:
    return any(count > 1 for count in counts)


def _constant(channels: Channels, group: Group, vector: Vector) -> tuple[Symmetry, str]:
    """Return the maps that a constant allows, and why there are no more."""
    typing, name = channels.typing, vector.constant
    tensor = typing.model.constants[name]
    if name in typing.quantised or name in typing.unread or name in typing.absent:
        return Symmetry.PERMUTATION, f"its weight '{name}' is quantised"
    if tensor.data_type not in (*FLOATS, HALF):
        return Symmetry.PERMUTATION, f"its weight '{name}' holds no real numbers"
    if typing.model.index.count(name) > 1:
        return Symmetry.PERMUTATION, f"its weight '{name}' is tied: several nodes read it"
    if any(_repeats(_within(dim, group.factor)) for dim in typing.axes[name]):
        return Symmetry.PERMUTATION, "the axis meets itself"
    if tensor.data_type == HALF:
        return Symmetry.ORTHOGONAL, f"its weight '{name}' is of half precision, which other maps would spoil"
    return Symmetry.LINEAR, ""


def _limited(found: GroupSymmetry, kind: Symmetry, limit: Limit) -> GroupSymmetry:
    now, opened = meet(found.symmetry, kind), meet(found.opened, kind)
    changed = (now, opened) != (found.symmetry, found.opened)
    return replace(found, symmetry=now, opened=opened, limit=limit if changed else found.limit)


def _with_sides(typing: Typing, found: GroupSymmetry, nodes: Sequence[int]) -> GroupSymmetry:
    """Set which activations are in the dual basis; where one would be in both, bases are their own duals."""
    edges: dict[str, list[tuple[str, int]]] = defaultdict(list)
    pairs = {pair.node: pair for pair in found.pairs}
    views = {role.node for role in found.vectors if role.kind != "shift"}

    def join(a: str, b: str, sign: int) -> None:
        edges[a].append((b, sign))
        edges[b].append((a, sign))

    for index in nodes:
        if index in pairs:
            join(pairs[index].first, pairs[index].second, -1)
            continue
        passage = Passage(typing, index, found.group.factor)
        flows = [*passage.flows, *(o for o in passage.outputs if not passage.is_constant(o))]
        for name in flows[1:] if index not in views else ():
            join(flows[0], name, 1)
    sides: dict[str, int] = {}
    for start in (*(v.flow for v in found.vectors), *(p.first for p in found.pairs)):
        if not _spread(start, edges, sides):
            node = typing.nodes[found.pairs[0].node]
            why = Limit(label(node), node.op_type, "one tensor holds both sides of its sum")
            return replace(_limited(found, Symmetry.ORTHOGONAL, why), sides=defaultdict(lambda: 1))
    return replace(found, sides=sides)


def _spread(start: str, edges: Mapping[str, list[tuple[str, int]]], sides: dict[str, int]) -> bool:
    """Give all tensors connected with a tensor a side; return whether that has no contradiction."""
    pending = [start]
    sides.setdefault(start, 1)
    while pending:
        name = pending.pop()
        for other, sign in edges.get(name, ()):
            if other not in sides:
                sides[other] = sides[name] * sign
                pending.append(other)
            elif sides[other] != sides[name] * sign:
                return False
    return True


def lying_on(typing: Typing, factor: Factor) -> Iterator[tuple[int, list[str]]]:
    """Yield the nodes that carry a factor, with the activations it lies on, operands first."""
    for index in _carrying(typing, {factor})[factor]:
        passage = Passage(typing, index, factor)
        yield index, [*passage.flows, *(o for o in passage.outputs if not passage.is_constant(o))]
