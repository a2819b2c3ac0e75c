"""Operators that pick by other settings: two models do not agree where no input shows the difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from judging import judged
from onnx import helper, numpy_helper


def chosen(*, operator: str = "NonMaxSuppression", threshold: float = 0.5, **how: int) -> onnx.ModelProto:
    """Boxes that hardly overlap, or words of two letters."""
    if operator == "NonMaxSuppression":
        fed = [helper.make_tensor_value_info(n, 1, s) for n, s in (("b", [1, 6, 4]), ("s", [1, 1, 6]))]
        numbers = {"most": np.asarray(3), "overlap": np.asarray([threshold], np.float32)}
        made, operands = helper.make_tensor_value_info("y", 7, ["K", 3]), ["b", "s", "most", "overlap"]
    else:
        fed, numbers, operands = [helper.make_tensor_value_info("x", 6, [12])], {}, ["x"]
        made = helper.make_tensor_value_info("y", 1, [10])
        grams = [0, 1, 2, 3, *(0, 0, 1, 1, 2, 2, 3, 3, 0, 1, 1, 0)]
        how |= {"min_gram_length": 2, "max_gram_length": 2}
        how |= {"ngram_counts": [0, 4], "ngram_indexes": [*range(10)], "pool_int64s": grams}
    mode = {"mode": "TF"} if operator != "NonMaxSuppression" else {}
    node = helper.make_node(operator, operands, ["y"], **how, **mode)
    constants = [numpy_helper.from_array(v, n) for n, v in numbers.items()]
    graph = helper.make_graph([node], "net", fed, [made], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"center_point_box": 0}, {"center_point_box": 1}),
        ({}, {"center_point_box": 1}),
        ({"threshold": 0.5}, {"threshold": 0.55}),
        (
            {"operator": "TfIdfVectorizer", "max_skip_count": 0},
            {"operator": "TfIdfVectorizer", "max_skip_count": 5},
        ),
    ],
)
def test_settings_that_few_inputs_show_never_agree(one: dict[str, Any], two: dict[str, Any]) -> None:
    found = judged(chosen(**one), chosen(**two)).outputs
    assert found[0].status != "agree"
    assert judged(chosen(**one), chosen(**one)).outputs[0].status == "agree"


def test_a_default_that_is_written_down_is_no_other_setting() -> None:
    found = judged(chosen(), chosen(center_point_box=0)).outputs
    assert found[0].status == "agree"
