"""Lists of sizes that a network puts together while it runs, changed where their constants stand.

``Concat(batch, length, [12], [32])`` is how exporters spell the shape that splits a width into heads. The
number that changes is a constant of its own there; written in its place, the list keeps the form that
runtimes look for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from onnxprune.analysis.shapes import Shapes
from onnxprune.ir import Model
from onnxprune.ir.index import GraphIndex
from onnxprune.ops.spec import STANDARD_DOMAINS

Place = tuple[int, int]
"""An operand of a Concat, and an element of it."""


@dataclass
class Lists:
    """The nodes of a network that join lists.

    Attributes:
        model: The network, which is changed.
        shapes: The shapes of the network it is a copy of.
        index: The producers and readers of its tensors, before any change.
    """

    model: Model
    shapes: Shapes
    index: GraphIndex

    @classmethod
    def of(cls, model: Model, shapes: Shapes) -> Lists:
        """Find the lists of a network, a copy of which the shapes were found for."""
        return cls(model, shapes, GraphIndex.flat(model.proto.graph, model.graphs))

    def maker(self, name: str) -> onnx.NodeProto | None:
        """Return the Concat that makes a list, ``None`` where it is made otherwise."""
        node = self.index.producer(name)
        joins = node is not None and node.op_type == "Concat" and node.domain in STANDARD_DOMAINS
        return node if joins else None

    def place(self, name: str, element: int) -> Place | None:
        """Return where the constant of an element of a list stands, ``None`` where it is computed."""
        maker = self.maker(name)
        for operand, piece in enumerate(maker.input if maker is not None else ()):
            dims = self.shapes.sizes.get(piece, ())
            if len(dims) != 1 or not isinstance(dims[0], int):
                return None
            if element < dims[0]:
                return (operand, element) if piece in self.model.constants else None
            element -= dims[0]
        return None

    def change(self, name: str, changes: Mapping[int, int], new: str | None) -> onnx.NodeProto | None:
        """Give a list other numbers.

        Args:
            name: The list.
            changes: The new numbers, by element; each comes from a constant (see `place`).
            new: Name of a list of its own; ``None`` changes the list itself, which no reader needs as it is.

        Returns:
            The node that makes the list of their own, ``None`` where the list itself was changed.
        """
        maker = self.maker(name)
        assert maker is not None
        changed = onnx.NodeProto()
        changed.CopyFrom(maker)
        for element, number in changes.items():
            place = self.place(name, element)
            assert place is not None
            operand, inner = place
            values = self.model.array(changed.input[operand]).copy()
            values[inner] = number
            changed.input[operand] = self.model.add_constant(f"{changed.input[operand]}__kept", values)
        if new is None:
            maker.CopyFrom(changed)
            return None
        changed.name = changed.output[0] = new
        return changed
