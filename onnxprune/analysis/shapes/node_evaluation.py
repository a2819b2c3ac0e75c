"""One node, run on known operands by onnx's reference implementation of the node's own opset."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

Array = np.ndarray[Any, np.dtype[Any]]


def evaluate(node: onnx.NodeProto, inputs: list[Array], opset: int) -> Any:
    """Return the first result of a node that is fed these operands.

    Args:
        node: A node of the standard domain.
        inputs: Its operands, those left out not counted.
        opset: The opset of the model, which determines the semantics of the operator.
    """
    feeds = {f"i{k}": v for k, v in enumerate(inputs)}
    given = iter(feeds)
    bare = onnx.NodeProto(op_type=node.op_type, output=["o"], attribute=node.attribute)
    bare.input.extend(next(given) if i else "" for i in node.input)
    with np.errstate(all="ignore"):  # the logarithm of zero, say, which a later Where discards
        results: Any = _evaluator(bare.SerializeToString(), opset).run(None, feeds)
    return results[0]


@lru_cache(maxsize=256)
def _evaluator(node: bytes, opset: int) -> ReferenceEvaluator:
    """Wrap a node in a model: the evaluator takes a bare node for one of the newest opset."""
    bare = onnx.NodeProto.FromString(node)
    graph = onnx.GraphProto(name="one node", node=[bare])
    graph.input.extend(onnx.ValueInfoProto(name=i) for i in bare.input if i)
    graph.output.add(name="o")
    return ReferenceEvaluator(onnx.ModelProto(graph=graph, opset_import=[helper.make_opsetid("", opset)]))
