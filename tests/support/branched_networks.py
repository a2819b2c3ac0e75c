"""Random networks part of which lies in the branches of an If."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from random_networks import networks

from onnxprune.analysis.shapes import infer
from onnxprune.ir import Model, check

Draw = Callable[..., object]


@st.composite
def branched(draw: Draw) -> Model:
    """A random network, a stretch of whose nodes lies in the branches of an If, weights and all."""
    model = draw(networks())
    nodes = [n for n in model.nodes if n.op_type != "Constant"]
    begin = draw(st.integers(0, len(nodes) - 1))
    end = draw(st.integers(begin + 1, len(nodes)))
    return put_into_branches(model, nodes[begin:end], draw(st.integers(0, 99)))


def put_into_branches(model: Model, inside: list[onnx.NodeProto], seed: int) -> Model:
    """Move nodes into both branches of an If, with other weights in either where no other node reads them."""
    random, proto = np.random.default_rng(seed), model.copy().proto
    names = [n.output[0] for n in inside]
    outside = [n for n in proto.graph.node if n.output[0] not in names]
    made = {o for n in inside for o in n.output if o}
    read = {i for n in outside for i in n.input} | {o.name for o in proto.graph.output}
    returned = [o for n in inside for o in n.output if o in read]
    own = {i for n in inside for i in n.input if i in model.constants} - read
    own &= {t.name for t in proto.graph.initializer}
    types = infer(model).types
    if not returned:
        return model
    branches = []
    for suffix in ("then", "else"):
        fresh = {name: f"{name}_{suffix}" for name in made | own}
        body = onnx.GraphProto(name=suffix)
        for node in inside:
            copy = body.node.add()
            copy.CopyFrom(node)
            copy.input[:] = [fresh.get(i, i) for i in node.input]
            copy.output[:] = [fresh.get(o, o) for o in node.output]
        for name in sorted(own):
            values = model.array(name)
            if values.dtype.kind == "f" and values.ndim > 1:
                values = random.permutation(values.ravel()).reshape(values.shape)
            body.initializer.append(numpy_helper.from_array(values, fresh[name]))
        body.output.extend(helper.make_tensor_value_info(fresh[o], types[o], None) for o in returned)
        branches.append(body)
    choice = helper.make_node(
        "If", ["choice"], returned, name="If", then_branch=branches[0], else_branch=branches[1]
    )
    kept = [t for t in proto.graph.initializer if t.name not in own]
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend([*outside, choice])
    proto.graph.initializer.extend(kept)
    proto.graph.input.append(helper.make_tensor_value_info("choice", onnx.TensorProto.BOOL, []))
    return check(Model(proto))
