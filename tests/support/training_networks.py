"""Small networks and synthetic data for the tests of the training engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import numpy_helper, parser

CLASSES = 4
Arrays = dict[str, np.ndarray]

_CNN = """
<ir_version: 8, opset_import: ["" : 17]>
cnn (float[N, 1, 8, 8] image) => (float[N, 4] logits) {
    c1 = Conv<pads = [1, 1, 1, 1]>(image, w1)
    b1 = BatchNormalization<momentum = 0.8>(c1, scale, bias, mean, var)
    r1 = Relu(b1)
    c2 = Conv<pads = [1, 1, 1, 1]>(r1, w2, b2)
    sum = Add(c2, r1)
    p = GlobalAveragePool(sum)
    f = Flatten(p)
    logits = Gemm<transB = 1>(f, w3, b3)
}"""

_SHAPES = {"w1": (8, 1, 3, 3), "w2": (8, 8, 3, 3), "w3": (CLASSES, 8)}


def cnn(seed: int = 0) -> onnx.ModelProto:
    """Convolution, BatchNormalization, residual connection and classifier, with random weights."""
    random = np.random.default_rng(seed)
    model = parser.parse_model(_CNN)
    values = {
        name: random.normal(size=shape) / np.sqrt(np.prod(shape[1:])) for name, shape in _SHAPES.items()
    }
    values |= {"scale": np.ones(8), "bias": np.zeros(8), "mean": np.zeros(8), "var": np.ones(8)}
    return with_weights(model, values | {"b2": np.zeros(8), "b3": np.zeros(CLASSES)})


def parsed(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    """A model from text, with weights by name."""
    return with_weights(parser.parse_model(text), weights)


def with_weights(model: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A copy of a model with some initializers added or replaced; floats become float32."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    kept = [tensor for tensor in changed.graph.initializer if tensor.name not in weights]
    del changed.graph.initializer[:]
    changed.graph.initializer.extend(kept)
    for name, values in weights.items():
        array = np.asarray(values)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        changed.graph.initializer.append(numpy_helper.from_array(array, name))
    return changed


def weight(model: onnx.ModelProto, name: str) -> np.ndarray:
    """The values of an initializer."""
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def stripes(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy stripes, thin or wide, upright or lying: images and labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, samples)
    thin, wide = np.sin(np.arange(8) * 2.8), np.sin(np.arange(8) * 0.9)
    patterns = np.stack([np.outer(np.ones(8), thin), np.outer(np.ones(8), wide)])
    patterns = np.concatenate([patterns, patterns.transpose(0, 2, 1)])
    images = patterns[labels][:, None] + random.normal(scale=0.4, size=(samples, 1, 8, 8))
    return images.astype(np.float32), labels


def stripe_batches(steps: int, size: int = 32, seed: int = 0):
    """Batches of stripes, others in every epoch, the same in every run."""

    def batches(epoch: int) -> Iterator[tuple[Arrays, Arrays]]:
        for step in range(steps):
            images, labels = stripes(size, seed=hash((seed, epoch, step)) % 2**32)
            yield {"image": images}, {"labels": labels}

    return batches
