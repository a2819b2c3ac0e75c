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

Place = tuple[int, int]
"""An operand of a Concat, and an element of it."""


@dataclass
class Lists:
    """The nodes of a network that join lists.

    Attributes:
        model: The network, which is changed.
        shapes: The shapes of the network it is a copy of.
        makers: The Concat that makes each list.
        uses: How many operands read each of these lists, outputs of graphs included.
    """

    model: Model
    shapes: Shapes
    makers: dict[str, onnx.NodeProto]
    uses: dict[str, int]

    @classmethod
    def of(cls, model: Model, shapes: Shapes) -> Lists:
        """Find the lists of a network, a copy of which the shapes were found for."""
        nodes = model.all_nodes
        makers = {n.output[0]: n for n in nodes if n.op_type == "Concat" and n.domain in ("", "ai.onnx")}
        uses = dict.fromkeys(makers, 0)
        returned = [o.name for graph in model.graphs for o in graph.output]
        for name in (*(i for node in nodes for i in node.input), *returned):
            if name in uses:
                uses[name] += 1
        return cls(model, shapes, makers, uses)

    def place(self, name: str, element: int) -> Place | None:
        """Return where the constant of an element of a list stands, ``None`` where it is computed."""
        maker = self.makers.get(name)
        for operand, piece in enumerate(maker.input if maker is not None else ()):
            dims = self.shapes.sizes.get(piece, ())
            if len(dims) != 1 or not isinstance(dims[0], int):
                return None
            if element < dims[0]:
                return (operand, element) if piece in self.model.constants else None
            element -= dims[0]
        return None

    def change(self, name: str, changes: Mapping[int, int], readers: int, new: str) -> onnx.NodeProto | None:
        """Give a list other numbers.

        Args:
            name: The list.
            changes: The new numbers, by element; each comes from a constant (see `place`).
            readers: How many of the operands that read the list want these.
            new: Name of the list of their own, where others want the old one.

        Returns:
            The node that makes the list of their own, ``None`` where the list itself was changed.
        """
        maker = self.makers[name]
        changed = onnx.NodeProto()
        changed.CopyFrom(maker)
        for element, number in changes.items():
            place = self.place(name, element)
            assert place is not None
            operand, inner = place
            values = self.model.array(changed.input[operand]).copy()
            values[inner] = number
            changed.input[operand] = self.model.add_constant(f"{changed.input[operand]}__kept", values)
        if readers == self.uses[name]:
            maker.CopyFrom(changed)
            return None
        changed.name = changed.output[0] = new
        return changed
