"""Changes of both models that make the removal of channels wrong: the verifier has to refuse them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from certified_networks import half_of
from onnx import TensorProto, helper, numpy_helper

from onnxprune.certify import CertifyResult, certify


def changed(name: str, change: Callable[[onnx.GraphProto], None]) -> CertifyResult:
    """Change the sparse and the dense model of a network alike, and prove the dense one again."""
    pair, models = half_of(name), []
    for source in (pair.sparse.model.proto, pair.dense.model.proto):
        model = onnx.ModelProto()
        model.CopyFrom(source)
        change(model.graph)
        models.append(model)
    return certify(models[0], models[1], pair.dense.kept)


def of_kind(graph: onnx.GraphProto, kind: str) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type == kind]


@pytest.mark.parametrize("point", [90, 91])
def test_a_zero_before_rounding_is_one_behind_it_for_one_zero_point(point: int) -> None:
    def change(graph: onnx.GraphProto) -> None:
        for tensor in graph.initializer:
            if list(tensor.dims) == [12, 16, 3, 3]:  # the sparse model's: its removed columns are read again
                values = numpy_helper.to_array(tensor)
                gone = (values == 0).all(axis=(2, 3), keepdims=True) & (values != 0).any(
                    axis=1, keepdims=True
                )
                tensor.CopyFrom(numpy_helper.from_array(np.where(gone, np.int8(7), values), tensor.name))
        graph.initializer.append(numpy_helper.from_array(np.asarray(point, np.uint8), "other"))
        [n for n in of_kind(graph, "DequantizeLinear") if len(n.input) > 2][-1].input[2] = "other"

    assert changed("integers_around_a_zero_point", change).certified == (point == 90)


def test_a_mask_that_heads_are_cut_from() -> None:
    def change(graph: onnx.GraphProto) -> None:
        (node,) = of_kind(graph, "MultiHeadAttention")
        place = list(graph.node).index(node)
        node.input[4] = "queries"
        graph.node.insert(place, helper.make_node("Cast", [node.input[0]], ["queries"], to=TensorProto.INT32))

    found = changed("padding_of_a_fused_attention", change)
    assert "part" in found.operator
    assert not found.certified


@pytest.mark.parametrize("name", ["limited_scores_with_caches", "limited_scores_of_onnx"])
@pytest.mark.parametrize("limit", [0.0, 0.7, -0.5])
def test_another_limit_of_the_scores(name: str, limit: float) -> None:
    pair, dense = half_of(name), onnx.ModelProto()
    dense.CopyFrom(pair.dense.model.proto)
    (node,) = [n for n in dense.graph.node if n.op_type.endswith("Attention")]
    next(a for a in node.attribute if a.name == "softcap").f = limit
    assert not certify(pair.sparse.model.proto, dense, pair.dense.kept).certified


def test_heads_and_batches_merged_in_another_order() -> None:
    def change(graph: onnx.GraphProto) -> None:
        turned = [n for n in of_kind(graph, "Transpose") if n.attribute[0].ints == [0, 2, 1, 3]]
        turned[1].attribute[0].ints[:] = [2, 0, 1, 3]

    assert changed("scores_in_a_merged_batch", lambda graph: None).certified
    assert not changed("scores_in_a_merged_batch", change).certified


def test_rows_that_are_normalised_with_an_unknown_bias() -> None:
    """Versions of onnxruntime differ in whether they add it."""

    def change(graph: onnx.GraphProto) -> None:
        (node,) = of_kind(graph, "SkipSimplifiedLayerNormalization")
        node.input.append(node.input[2])

    assert not changed("sums_and_activations_in_one", change).certified


@pytest.mark.parametrize("kind", ["Attention", "RotaryEmbedding"])
def test_attributes_that_no_definition_knows(kind: str) -> None:
    def change(graph: onnx.GraphProto) -> None:
        for node in of_kind(graph, kind):
            node.attribute.append(helper.make_attribute("surprise", 1))

    assert changed("attention_of_onnx", change).operator == kind
