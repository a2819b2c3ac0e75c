"""Caches whose axes have no telling name: inputs that an output returns longer."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper, parser

from onnxprune.analysis.shapes import fitting_shapes
from onnxprune.analysis.sizes import infer_sizes
from onnxprune.analysis.sizes.runnable_sizes import default_sizes
from onnxprune.ir import Model, check


def decoder(heads: int, returned: str, named: str = "s7") -> Model:
    """Return the scores of tokens over a cache of keys, whose steps are an axis of any name."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (int64[n, s1] tokens, float[n, {heads}, {named}, 8] kept)
        => (float[n, {heads}, s1, t] y, float[a, b, c, d] grown)
        <int64[4] by_head = {{0, 0, {heads}, 8}}> {{
            x = Gather(table, tokens)  m = MatMul(x, weight)  r = Reshape(m, by_head)
            k = Transpose<perm = [0, 2, 1, 3]>(r)  all = Concat<axis = -2>(kept, k)
            turned = Transpose<perm = [0, 1, 3, 2]>(all)  y = MatMul(k, turned)  grown = {returned} }}"""
    proto = parser.parse_model(text)
    random = np.random.default_rng(0)
    for name, shape in (("table", (20, 6)), ("weight", (6, heads * 8))):
        proto.graph.initializer.append(
            numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
        )
    return check(Model(proto))


@pytest.mark.parametrize("heads", [3, 4, 6])
def test_steps_of_a_cache_are_no_side_of_a_picture(heads: int) -> None:
    model = decoder(heads, "Identity(all)")
    sizes = infer_sizes(model.proto)
    assert sizes.symbols["s7"].lower == 0
    assert "caches may be empty: s7" in sizes.assumptions
    assert default_sizes(sizes)["s7"] < 33
    assert fitting_shapes(model)["kept"][2] < 33


@pytest.mark.parametrize("returned", ["Neg(all)", "Identity(k)"])
def test_an_axis_that_no_output_lengthens_is_no_cache(returned: str) -> None:
    assert infer_sizes(decoder(4, returned).proto).symbols["s7"].lower == 1


def test_the_cost_is_that_of_the_same_network_with_names() -> None:
    named, plain = (fitting_shapes(decoder(4, "Identity(all)", name)) for name in ("past_length", "s7"))
    assert named == plain
