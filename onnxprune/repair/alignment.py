"""Names of constants of an original, aligned with those of its sparse model.

A constant with several readers may be split for the mask. The two canonical forms can then name the parts
differently: either reader keeps the name. The operands of equal nodes correspond by position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from onnxprune.decisions.channels.graph_comparison import are_equal
from onnxprune.ir import Model
from onnxprune.ir.canonical.canonicalise import drop_unused_constants


def aligned(original: Model, sparse: Model) -> Model:
    """Return the original, its constants named as the same operands of the sparse model.

    Args:
        original: The canonical form of the original; it is not changed.
        sparse: The canonical form of the sparse model, of the same nodes.

    Returns:
        The original itself where no name differs, or where the operands do not correspond.
    """
    sources = _sources(computing_nodes(original), computing_nodes(sparse), original, sparse)
    moved = {name: source for name, source in sources.items() if name != source}
    if not moved:
        return original
    renamed = original.copy()
    for node, like in zip(computing_nodes(renamed), computing_nodes(sparse), strict=True):
        for place, (source, name) in enumerate(zip(node.input, like.input, strict=False)):
            if name in moved and source in original.constants:
                node.input[place] = name
    renamed.edited()
    for name, source in moved.items():
        values = original.array(source)
        if name in renamed.constants:
            renamed.set_array(name, values)
        else:
            renamed.add_constant(name, values)
    drop_unused_constants(renamed)
    return renamed


def computing_nodes(model: Model) -> list[onnx.NodeProto]:
    """Return the nodes of a model that compute something, those of bodies included."""
    return [n for n in model.all_nodes if n.op_type != "Constant"]


def _sources(
    theirs: Sequence[onnx.NodeProto], ours: Sequence[onnx.NodeProto], original: Model, sparse: Model
) -> Mapping[str, str]:
    """Return the constant of the original behind each constant of the sparse model; nothing if ambiguous."""
    found: dict[str, str] = {}
    if len(theirs) != len(ours):
        return {}
    for node, like in zip(theirs, ours, strict=True):
        for source, name in zip(node.input, like.input, strict=False):
            if source not in original.constants or name not in sparse.constants:
                continue
            first = found.setdefault(name, source)
            if first != source and not are_equal(original.constants[first], original.constants[source]):
                return {}
    return found
