"""Decoders with caches, and samples for one of them."""

from __future__ import annotations

import numpy as np
from attention_networks import projections
from helpers import Net
from onnx import helper

from onnxprune.ir import Model, opened

CACHES = ("past*", "present*")
MICROSOFT = "com.microsoft"


def renamed(net: Net, model_outputs: dict[str, str], *others: str) -> Model:
    """The network, some of its outputs under names of the caller's."""
    for old, new in model_outputs.items():
        net.nodes.append(helper.make_node("Identity", [old], [new], name=new))
        net.types[new] = net.types[old]
    return net.model(*model_outputs.values(), *others)


def decoder(layers: int = 2, heads: int = 6, width: int = 8, batch: str = "batch") -> Model:
    """Layers whose projections are within the node, each with a cache of keys and values in one tensor."""
    net = Net()
    x, made = net.input("x", [batch, "length", 16]), []
    for layer in range(layers):
        past = net.input(f"past_{layer}", [2, batch, heads, "past_length", width])
        total = heads * width
        operands = [x, net.weight(16, 3 * total, fan=16), net.vector(3 * total), "", past]
        y, _ = net.ops("Attention", *operands, outputs=2, domain=MICROSOFT, num_heads=heads, unidirectional=1)
        net.sized(y, [batch, "length", total])
        net.nodes[-1].output[1] = f"present_{layer}"
        net.types[f"present_{layer}"] = helper.make_tensor_type_proto(
            net.kind, [2, batch, heads, "total_length", width]
        )
        x = net.add(x, net.linear(y, 16))
        x = net.add(x, net.linear(net.relu(net.linear(x, 32)), 16))
        made.append(f"present_{layer}")
    return net.model(net.linear(x, 10), *made)


def attention_with_caches() -> Model:
    """Written out, samples first in every input, as transformers are exported."""
    net = Net()
    x = net.input("x", ["N", 5, 12])
    q, k, v = (net.transpose(net.reshape(a, 0, 0, 6, 8), 0, 2, 1, 3) for a in projections(net, x, 48, 48, 48))
    made = []
    for name, new in (("key", k), ("value", v)):
        net.sized(new, ["N", 6, 5, 8])
        made.append(
            net.sized(net.concat(net.input(f"past_{name}", ["N", 6, 3, 8]), new, axis=2), ["N", 6, 8, 8])
        )
    scores = net.op("Softmax", net.op("MatMul", q, net.transpose(made[0], 0, 1, 3, 2)), axis=-1)
    y = net.reshape(net.transpose(net.op("MatMul", scores, made[1]), 0, 2, 1, 3), 0, 0, 48)
    y = net.linear(net.relu(net.linear(net.sized(y, ["N", 5, 48]), 20)), 12)
    names = {y: "logits", made[0]: "present_key", made[1]: "present_value"}
    return opened(renamed(net, names), CACHES)


def samples(count: int = 32) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {"x": (5, 12), "past_key": (6, 3, 8), "past_value": (6, 3, 8), "logits": (5, 12)}
    return {name: random.normal(size=(count, *s)).astype(np.float32) for name, s in shapes.items()}
