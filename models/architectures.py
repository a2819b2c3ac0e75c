"""The bundled networks, built as ONNX from random weights.

Both take `image`, float32 [N, 1, 28, 28] with values 0 to 1, and return `logits`, float32 [N, 10].
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

OPSET = 17
IR_VERSION = 8
CLASSES = 10


class Network:
    """Appends layers with random weights to a graph.

    Convolutions start from He's normal distribution (He et al. 2015), BatchNormalization from the identity.

    Args:
        name: Name of the graph.
        seed: Of the random weights.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.image = gs.Variable("image", np.float32, ["N", 1, 28, 28])
        self._graph = gs.Graph(inputs=[self.image], opset=OPSET, name=name)

    def _append(
        self, operator: str, layer: str, inputs: list[gs.Tensor], **attributes: object
    ) -> gs.Variable:
        output = gs.Variable(f"{layer}_output", np.float32)
        self._graph.nodes.append(gs.Node(operator, layer, attributes, inputs, [output]))
        return output

    def _constant(self, name: str, values: np.ndarray) -> gs.Constant:
        return gs.Constant(name, values.astype(np.float32))

    def convolution(
        self,
        layer: str,
        x: gs.Tensor,
        channels: tuple[int, int],
        kernel: int,
        stride: int = 1,
        group: int = 1,
    ) -> gs.Variable:
        """Convolution without bias, padded so that only the stride shrinks, and BatchNormalization."""
        inputs, outputs = channels
        shape = (outputs, inputs // group, kernel, kernel)
        deviation = np.sqrt(2.0 / (shape[1] * kernel**2))
        weight = self._constant(f"{layer}.weight", self._random.normal(0.0, deviation, shape))
        geometry = {
            "kernel_shape": [kernel] * 2,
            "strides": [stride] * 2,
            "pads": [kernel // 2] * 4,
            "group": group,
        }
        y = self._append("Conv", layer, [x, weight], **geometry)
        starts = {"scale": np.ones, "bias": np.zeros, "mean": np.zeros, "variance": np.ones}
        statistics = [self._constant(f"{layer}.bn.{name}", fill(outputs)) for name, fill in starts.items()]
        return self._append("BatchNormalization", f"{layer}.bn", [y, *statistics])

    def relu(self, layer: str, x: gs.Tensor) -> gs.Variable:
        """max(x, 0)."""
        return self._append("Relu", f"{layer}.relu", [x])

    def relu6(self, layer: str, x: gs.Tensor) -> gs.Variable:
        """min(max(x, 0), 6)."""
        bounds = [
            self._constant(f"{layer}.{name}", np.array(value)) for name, value in (("low", 0), ("high", 6))
        ]
        return self._append("Clip", f"{layer}.relu6", [x, *bounds])

    def add(self, layer: str, a: gs.Tensor, b: gs.Tensor) -> gs.Variable:
        """Residual connection."""
        return self._append("Add", f"{layer}.add", [a, b])

    def concat(self, layer: str, *parts: gs.Tensor) -> gs.Variable:
        """Concatenate channels."""
        return self._append("Concat", f"{layer}.concat", list(parts), axis=1)

    def max_pool(self, layer: str, x: gs.Tensor) -> gs.Variable:
        """Halve height and width."""
        return self._append("MaxPool", f"{layer}.pool", [x], kernel_shape=[2, 2], strides=[2, 2])

    def classifier(self, x: gs.Tensor, features: int) -> onnx.ModelProto:
        """Average over the image, map to the classes, and finish the model."""
        pooled = self._append("GlobalAveragePool", "head.pool", [x])
        flat = self._append("Flatten", "head.flatten", [pooled], axis=1)
        shape = (CLASSES, features)
        weight = self._constant("head.weight", self._random.normal(0.0, np.sqrt(1.0 / features), shape))
        logits = self._append(
            "Gemm", "head", [flat, weight, self._constant("head.bias", np.zeros(CLASSES))], transB=1
        )
        logits.name, logits.shape = "logits", ("N", CLASSES)
        self._graph.outputs = [logits]
        return onnx.shape_inference.infer_shapes(gs.export_onnx(self._graph, ir_version=IR_VERSION))


def mnist_cnn(seed: int = 0) -> onnx.ModelProto:
    """Two residual stages of 3×3 convolutions, a depthwise one between them, two branches concatenated."""
    net = Network("mnist_cnn", seed)
    x = net.relu("stem", net.convolution("stem", net.image, (1, 32), 5, stride=2))
    x = net.relu("stage1", net.convolution("stage1", x, (32, 64), 3))
    x = _residual(net, "stage1.block", x, 64)
    x = net.relu("stage2.depthwise", net.convolution("stage2.depthwise", x, (64, 64), 3, stride=2, group=64))
    x = net.relu("stage2.pointwise", net.convolution("stage2.pointwise", x, (64, 128), 1))
    x = _residual(net, "stage2.block", x, 128)
    narrow = net.relu("stage3.narrow", net.convolution("stage3.narrow", x, (128, 64), 1))
    wide = net.relu("stage3.wide", net.convolution("stage3.wide", x, (128, 64), 3))
    return net.classifier(net.concat("stage3", narrow, wide), 128)


def _residual(net: Network, layer: str, x: gs.Tensor, width: int) -> gs.Variable:
    """Two 3×3 convolutions around a residual connection (He et al. 2016)."""
    y = net.relu(f"{layer}.first", net.convolution(f"{layer}.first", x, (width, width), 3))
    y = net.convolution(f"{layer}.second", y, (width, width), 3)
    return net.relu(layer, net.add(layer, x, y))


def fashion_mobile(seed: int = 0) -> onnx.ModelProto:
    """Inverted residuals (Sandler et al. 2018) and depthwise branches of two sizes, concatenated."""
    net = Network("fashion_mobile", seed)
    x = net.relu6("stem", net.convolution("stem", net.image, (1, 32), 3, stride=2))
    x = _inverted_residual(net, "stage1.block", x, 32, 64)
    x = _two_scales(net, "stage2", x, 32, 64)
    x = _inverted_residual(net, "stage2.block1", x, 64, 192)
    x = _inverted_residual(net, "stage2.block2", x, 64, 192)
    x = net.relu6("stage3", net.convolution("stage3", x, (64, 256), 1))
    return net.classifier(x, 256)


def _inverted_residual(net: Network, layer: str, x: gs.Tensor, width: int, expanded: int) -> gs.Variable:
    """Expand, convolve each channel by itself, project back, add."""
    y = net.relu6(f"{layer}.expand", net.convolution(f"{layer}.expand", x, (width, expanded), 1))
    y = net.convolution(f"{layer}.depthwise", y, (expanded, expanded), 3, group=expanded)
    y = net.convolution(f"{layer}.project", net.relu6(f"{layer}.depthwise", y), (expanded, width), 1)
    return net.add(layer, x, y)


def _two_scales(net: Network, layer: str, x: gs.Tensor, inputs: int, outputs: int) -> gs.Variable:
    """Halve the image with 3×3 and 5×5 depthwise convolutions side by side, and mix them."""
    x = net.relu6(f"{layer}.expand", net.convolution(f"{layer}.expand", x, (inputs, 64), 1))
    branches = [
        net.relu6(name, net.convolution(name, x, (64, 64), kernel, stride=2, group=64))
        for kernel in (3, 5)
        for name in [f"{layer}.depthwise{kernel}x{kernel}"]
    ]
    return net.convolution(f"{layer}.mix", net.concat(layer, *branches), (128, outputs), 1)
