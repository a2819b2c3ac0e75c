"""Networks with graphs inside: branches, loops, recurrences spelled out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from helpers import Net
from ideas import Idea, image
from onnx import TensorProto, helper

CONTROL: dict[str, Idea] = {}
"""Apart from the others: their inputs are no rows of samples, and constants do not cross boundaries."""


def idea(reach: float) -> Callable[[Callable[[], onnx.ModelProto]], Callable[[], onnx.ModelProto]]:
    """Enter a function that builds a network into ``CONTROL``."""

    def enter(build: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
        CONTROL[build.__name__] = Idea(build, reach)
        return build

    return enter


class Body(Net):
    """A graph being written down that reads the tensors of another."""

    def __init__(self, outer: Net, inside: str = "initializer") -> None:
        super().__init__(opset=outer.opset, constants=inside)
        self.random, self.outer = outer.random, outer
        self.types |= outer.types

    def _fresh(self, stem: str) -> str:
        return self.outer._fresh(stem)

    def graph(self, *outputs: str, given: Sequence[str] = ()) -> onnx.GraphProto:
        made = [onnx.ValueInfoProto(name=o, type=self.types[o]) for o in outputs]
        taken = [onnx.ValueInfoProto(name=g, type=self.types[g]) for g in given]
        fixed = [] if self.constants == "node" else list(self.values.values())
        return helper.make_graph(self.nodes, "body", taken, made, fixed)


def choose(net: Net, then: onnx.GraphProto, other: onnx.GraphProto, choice: str = "") -> str:
    """An If."""
    choice = choice or net.input("choice", [], kind=TensorProto.BOOL)
    y = net.op("If", choice, then_branch=then, else_branch=other)
    net.types[y] = then.output[0].type
    return y


def mlp(body: Body, x: str, width: int, out: int) -> str:
    return body.linear(body.relu(body.linear(x, width)), out)


@idea(0.34)
def if_branches() -> onnx.ModelProto:
    """Two networks in one file, all weights in the branches; an input chooses."""
    net = Net()
    x = net.input("x", [4, 16])
    one, two = Body(net), Body(net)
    deep = mlp(one, one.relu(one.linear(x, 64)), 64, 8)
    graphs = one.graph(deep), two.graph(two.op("Tanh", mlp(two, two.relu(two.linear(x, 48)), 48, 8)))
    return net.proto(net.op("Tanh", choose(net, *graphs)))


@idea(0.28)
def branches_around_a_stem() -> onnx.ModelProto:
    """Layers before and after the branches lose channels with them."""
    net = Net()
    x = net.cbr(image(net), 32)
    one, two = Body(net), Body(net)
    graphs = one.graph(one.relu(one.conv(x, 64))), two.graph(two.relu(two.conv(x, 64, 1)))
    return net.proto(net.head(net.cbr(net.sized(choose(net, *graphs), ["N", 64, 16, 16]), 64)))


@idea(0.29)
def loop_of_blocks() -> onnx.ModelProto:
    """A residual block applied three times, its weights in the body."""
    net = Net()
    x = net.relu(net.linear(net.input("x", [4, 8]), 48))
    body = Body(net)
    body.types["turn"] = helper.make_tensor_type_proto(TensorProto.INT64, [])
    body.types["go"] = helper.make_tensor_type_proto(TensorProto.BOOL, [])
    body.types["state"] = net.types[x]
    y = body.add(body.op("Tanh", mlp(body, "state", 64, 48)), "state")
    graph = body.graph(body.op("Identity", "go"), y, given=["turn", "go", "state"])
    z = net.op("Loop", net.const(np.asarray(3)), "", x, body=graph)
    net.types[z] = net.types[x]
    return net.proto(net.linear(z, 8))


@idea(0.33)
def scan_of_a_cell() -> onnx.ModelProto:
    """A recurrent cell spelled out in the body of a Scan."""
    net = Net()
    x = net.relu(net.linear(net.input("x", [6, 4, 8]), 32))
    body = Body(net)
    body.types["state"] = helper.make_tensor_type_proto(net.kind, [4, 32])
    body.types["step"] = helper.make_tensor_type_proto(net.kind, [4, 32])
    h = body.op("Tanh", body.add(body.linear("step", 32), body.linear("state", 32, bias=False)))
    graph = body.graph(h, body.op("Identity", h), given=["state", "step"])
    start = net.const(np.zeros((4, 32)))
    last, steps = net.ops("Scan", start, x, body=graph, num_scan_inputs=1, outputs=2)
    net.types[last] = body.types["state"]
    net.types[steps] = helper.make_tensor_type_proto(net.kind, [6, 4, 32])
    return net.proto(net.linear(last, 6), net.linear(net.relu(steps), 6))
