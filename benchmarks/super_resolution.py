"""Two networks of super-resolution for `exports.py`: few parameters, large pictures, and both sides open.

    python benchmarks/super_resolution.py FOLDER

`rrdb` is that of ESRGAN (Wang et al., 2018) with two of its blocks: 1.5 M parameters, four times the size.
`espcn` is that of Shi et al. (2016): 31 thousand parameters, three times the size by DepthToSpace. Weights
are random, drawn from a fixed seed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 17
WIDTH, GROWTH, BLOCKS = 64, 32, 2


class Graph:
    """The nodes and weights of a network, each made by the name of its result."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, kind: str, *operands: str, **attributes: object) -> str:
        """Add a node; return its result."""
        made = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, operands, [made], name=made, **attributes))
        return made

    def constant(self, values: np.ndarray) -> str:
        """Add a constant; return its name."""
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(self, x: str, given: int, made: int, side: int = 3) -> str:
        """Add a convolution that keeps height and width."""
        weight = self.random.normal(size=(made, given, side, side)) / np.sqrt(given * side * side)
        bias = self.random.normal(size=made) * 0.1
        names = [self.constant(values) for values in (weight, bias)]
        return self.node("Conv", x, *names, pads=[side // 2] * 4)

    def leaky(self, x: str) -> str:
        """Add the activation of all layers of `rrdb`."""
        return self.node("LeakyRelu", x, alpha=0.2)

    def scaled_sum(self, x: str, y: str) -> str:
        """Add a residual branch at a fifth of its size."""
        return self.node("Add", x, self.node("Mul", y, self.constant(np.asarray(0.2))))

    def model(self, result: str, scale: int) -> onnx.ModelProto:
        """Return the network of pictures ``[N, 3, H, W]``."""
        kind = onnx.TensorProto.FLOAT
        image = helper.make_tensor_value_info("image", kind, ["N", 3, "H", "W"])
        made = helper.make_tensor_value_info(result, kind, ["N", 3, f"{scale}*H", f"{scale}*W"])
        graph = helper.make_graph(self.nodes, "network", [image], [made], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def rrdb() -> onnx.ModelProto:
    """Residual blocks in residual blocks, densely connected inside; enlarged by nearest neighbours."""
    net = Graph()
    first = x = net.conv("image", 3, WIDTH)
    for _ in range(BLOCKS):
        whole = x
        for _ in range(3):
            parts = [x]
            for k in range(4):
                joined = net.node("Concat", *parts, axis=1) if k else x
                parts.append(net.leaky(net.conv(joined, WIDTH + k * GROWTH, GROWTH)))
            last = net.conv(net.node("Concat", *parts, axis=1), WIDTH + 4 * GROWTH, WIDTH)
            x = net.scaled_sum(x, last)
        x = net.scaled_sum(whole, x)
    x = net.node("Add", first, net.conv(x, WIDTH, WIDTH))
    for _ in range(2):
        scales = net.constant(np.asarray([1, 1, 2, 2]))
        x = net.node("Resize", x, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric",
                     nearest_mode="floor")  # fmt: skip
        x = net.leaky(net.conv(x, WIDTH, WIDTH))
    return net.model(net.conv(net.leaky(net.conv(x, WIDTH, WIDTH)), WIDTH, 3), 4)


def espcn() -> onnx.ModelProto:
    """Three convolutions, the last one to nine pixels for each."""
    net = Graph()
    x = net.node("Tanh", net.conv("image", 3, 64, 5))
    x = net.node("Tanh", net.conv(x, 64, 32))
    return net.model(net.node("DepthToSpace", net.conv(x, 32, 27), blocksize=3), 3)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for make in (rrdb, espcn):
        onnx.save(make(), folder / f"{make.__name__}.opset{OPSET}.onnx")


if __name__ == "__main__":
    main()
