"""Sums without the removed branches, and the network without the nodes that only these need."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnxprune.analysis.groups.blocks import ResidualBlock
from onnxprune.errors import PlanError
from onnxprune.ir import Model
from onnxprune.ir.canonical.canonicalise import without_dead_nodes


def without_blocks(model: Model, blocks: Sequence[ResidualBlock]) -> Model:
    """Return a network without some residual branches, whose ends are zero.

    Args:
        model: The network; its tensors have the names of the one that the blocks were found in.
        blocks: The branches to remove.

    Raises:
        PlanError: The network has no such sum.
    """
    if not blocks:
        return model
    model = model.copy()
    gone = {block.value for block in blocks}
    totals = {block.total for block in blocks}
    found = {node.output[0]: node for node in model.all_nodes if node.output and node.output[0] in totals}
    for block in blocks:
        node = found.get(block.total)
        if node is None or block.value not in node.input:
            raise PlanError(
                f"the plan removes '{block.name}', which the model does not add to '{block.stream}'",
                "the graph was changed after pruning: prune the original again",
            )
    for node in model.all_nodes:  # in order: a sum of removed branches is removed too
        if node.output and (node.output[0] in totals or not gone.isdisjoint(node.input)):
            _without(node, gone)
    model.edited()
    return without_dead_nodes(model)


def _without(node: onnx.NodeProto, gone: set[str]) -> None:
    """Take removed operands from a sum; a sum without operands is removed itself.

    A sum of one operand stays as an Identity, so that the tensor keeps its name; runtimes drop it.
    """
    if node.op_type not in ("Add", "Sub", "Sum"):
        return
    left = [name for name in node.input if name not in gone]
    if not left:
        gone.add(node.output[0])
        return
    if len(left) < len(node.input):
        node.op_type = "Identity" if len(left) == 1 else "Sum"
        node.input[:] = left
