"""A node of the dense graph beside its sparse counterpart, and the table of rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx

from onnxprune.certify.reading.graph import Graph
from onnxprune.certify.refusal import need
from onnxprune.certify.relations.element_bounds import Array, lift
from onnxprune.certify.relations.kept_constants import matched
from onnxprune.certify.relations.relation import Lists, Relation
from onnxprune.certify.sizes.size_monomials import Size

if TYPE_CHECKING:
    from onnxprune.certify.proof import Proof

Rule: TypeAlias = "Callable[[NodePair], Sequence[Relation]]"
RULES: dict[str, Rule] = {}
"""Rules that derive the relations of results from those of operands, by operator."""


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Enter a rule for operators."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return enter


class NodePair:
    """Two nodes of one operator.

    Args:
        proof: The proof, which holds the relations of operands.
        sparse: The sparse node.
        dense: The dense node.
    """

    def __init__(self, proof: Proof, sparse: onnx.NodeProto, dense: onnx.NodeProto) -> None:
        self.proof, self.sparse, self.dense = proof, sparse, dense
        self.graphs: tuple[Graph, Graph] = (proof.sparse, proof.dense)
        self.operator, self.opset = sparse.op_type, proof.sparse.opset
        self.given = proof.sparse.attributes(sparse)
        self.given_dense = proof.dense.attributes(dense)

    def same_attributes(self, *but: str) -> None:
        """Refuse unless all attributes are equal but some."""
        one, two = (
            {a.name: a.SerializeToString(deterministic=True) for a in n.attribute if a.name not in but}
            for n in (self.sparse, self.dense)
        )
        need(one == two, "the attributes differ")

    def number(self, name: str, default: Any = 0) -> tuple[Any, Any]:
        """Return an attribute of both nodes."""
        return self.given.get(name, default), self.given_dense.get(name, default)

    def has(self, place: int) -> bool:
        """Return true if both nodes have an operand; refuse if one has."""
        there = [Graph.has(node, place) for node in (self.sparse, self.dense)]
        need(there[0] == there[1], "one of the nodes has an operand more")
        return there[0]

    @property
    def places(self) -> list[int]:
        """The numbers of the operands that are there."""
        return [k for k in range(max(len(self.sparse.input), len(self.dense.input))) if self.has(k)]

    def sizes(self, place: int) -> tuple[list[Size], list[Size]]:
        """Return the sizes of an operand in both graphs."""
        return self._both(self.sparse.input[place], self.dense.input[place])

    def made(self, place: int = 0) -> tuple[list[Size], list[Size]]:
        """Return the sizes of a result in both graphs."""
        return self._both(self.sparse.output[place], self.dense.output[place])

    def _both(self, sparse: str, dense: str) -> tuple[list[Size], list[Size]]:
        one, two = self.graphs[0].sizes.get(sparse), self.graphs[1].sizes.get(dense)
        need(one is not None and two is not None, "a tensor of unknown rank")
        assert one is not None
        assert two is not None
        need(len(one) == len(two), "tensors of different rank")
        return one, two

    def values(self, place: int) -> tuple[Array, Array]:
        """Return the numbers and sizes that an operand holds in both graphs."""
        one = self.graphs[0].values.get(self.sparse.input[place])
        two = self.graphs[1].values.get(self.dense.input[place])
        need(one is not None and two is not None, f"operand {place} is not known before the run")
        assert one is not None
        assert two is not None
        return one, two

    def is_constant(self, place: int) -> bool:
        """Return true if an operand is a constant in both graphs."""
        names = self.sparse.input[place], self.dense.input[place]
        return all(n in g.constants for n, g in zip(names, self.graphs, strict=True))

    def constant(self, place: int) -> tuple[Array, Array]:
        """Return the values of a constant operand in both graphs."""
        need(self.is_constant(place), f"operand {place} is no constant")
        return self.graphs[0].constants[self.sparse.input[place]], self.graphs[1].constants[
            self.dense.input[place]
        ]

    def hints(self, place: int, rank: int | None = None) -> dict[int, Array]:
        """Return the index lists that the certificate has for a constant operand, as if it had some rank."""
        name = self.dense.input[place]
        given = self.proof.kept.get(self.graphs[1].like.get(name, name), {})
        own = self.graphs[0].constants[self.sparse.input[place]].ndim
        more = (rank or own) - own
        return {a + more: lift(m, rank or own) for a, m in given.items() if m.ndim == own and a < own}

    def is_folded(self, place: int) -> bool:
        """Return true if a constant operand was computed by the verifier in one of the graphs."""
        return (
            self.sparse.input[place] in self.graphs[0].folded
            or self.dense.input[place] in self.graphs[1].folded
        )

    def match(
        self,
        place: int,
        known: Lists,
        form: Callable[[Array], Array] = lambda v: v,
        hints: Mapping[int, Array] | None = None,
        within: Sequence[int] = (),
    ) -> Relation:
        """Return the relation of a constant operand.

        Args:
            place: Number of the operand.
            known: Index lists that follow from other operands.
            form: Function that brings the constant into the form that the lists are for.
            hints: Lists of the certificate, for that form.
            within: Axes in each element of which another list may be looked for.
        """
        one, two = (form(c) for c in self.constant(place))
        hints = self.hints(place, one.ndim) if hints is None else hints
        return matched(one, two, known, hints, within, self.is_folded(place))

    def relation(self, place: int, known: Lists | None = None) -> Relation:
        """Return the relation of an operand, constant or not."""
        if self.is_constant(place):
            return self.match(place, known or {})
        return self.proof.related(self.sparse.input[place], self.dense.input[place])

    def whole(self, place: int) -> None:
        """Refuse unless an operand is the same in both, or left out in both."""
        if self.has(place):
            same = self.proof.equal(self.sparse.input[place], self.dense.input[place])
            need(same, f"operand {place} has to stay as it is")

    def axis(self, default: int, rank: int) -> int:
        """Return the attribute ``axis``, counted from the front."""
        axis = self.given.get("axis", default)
        need(self.given_dense.get("axis", default) == axis and -rank <= axis < rank, "another axis")
        return int(axis) % rank

    @property
    def padded(self) -> bool:
        """Return true if zeros may be put around the operand of a window."""
        automatic = self.given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
        return any(self.given.get("pads", [0])) or automatic


def by_channel(values: Array, rank: int) -> Array:
    """Return a vector along axis 1 of a tensor."""
    return np.asarray(values).reshape([-1 if a == 1 else 1 for a in range(rank)])
