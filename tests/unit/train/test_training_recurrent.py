"""Both unrolled forms of an LSTM: central differences, and equality with each other."""

from __future__ import annotations

import numpy as np
import pytest
from test_training_pullbacks import check, model_of, normal, run

from onnxprune.train.pullbacks import long_short_term
from onnxprune.train.step import GRADIENT, step_graph

HIDDEN, INPUTS = 5, 3
WAYS = {
    "sequence": ("s, h, c", "y = Mul(s, three)", ("b",)),
    "last": ("s, h, c", "y = Mul(h, three)", ("b",)),
    "cell": (", , c", "y = Mul(c, three)", ("b",)),
    "all": ("s, h, c", "hc = Add(h, c)\n y = Add(s, hc)", ("b", "h0", "c0")),
    "unbiased": ("s, h, c", "y = Mul(s, three)", ()),
}
CASES = [(way, steps, samples) for way in WAYS for steps, samples in ((4, 17), (1, 16), (3, 2))]


def network(way: str, samples: int):
    """Return a trained LSTM behind a product, so that the gradient of its data is needed, too."""
    outputs, rest, optional = WAYS[way]
    constants = {
        "p": normal(INPUTS, INPUTS),
        "w": normal(1, 4 * HIDDEN, INPUTS, scale=0.6),
        "r": normal(1, 4 * HIDDEN, HIDDEN, scale=0.4),
        "b": normal(1, 8 * HIDDEN),
        "h0": normal(1, samples, HIDDEN),
        "c0": normal(1, samples, HIDDEN),
    }
    constants = {name: a for name, a in constants.items() if name in {"p", "w", "r", *optional}}
    names = [name if name in constants else "" for name in ("b", "lengths", "h0", "c0")]
    body = f"""three = Constant<value_float = 3.0>()
        q = MatMul(x, p)
        {outputs} = LSTM<hidden_size={HIDDEN}>(q, w, r, {", ".join(names).rstrip(", ")})
        {rest}"""
    return model_of(body.replace(", )", ")"), f"float[T, N, {INPUTS}] x", constants), constants


@pytest.mark.parametrize(("way", "steps", "samples"), [c for c in CASES if c[1] > 1 or c[0] == "all"])
def test_gradients(way, steps, samples):
    model, constants = network(way, samples)
    check(model, {"x": normal(steps, samples, INPUTS)}, constants)


@pytest.mark.parametrize(("way", "steps", "samples"), CASES)
def test_the_forms_are_equal(way, steps, samples, monkeypatch):
    model, constants = network(way, samples)
    x, found, nodes = normal(steps, samples, INPUTS), [], []
    for fewest in (1, 1000):
        monkeypatch.setattr(long_short_term, "FEWEST", fewest)
        graph = step_graph(model, list(constants), [], {"x": x.shape})
        nodes.append(len(graph.graph.node))
        found.append(run(graph, {"x": x} | constants))
    assert nodes[0] != nodes[1]
    for name in ("loss", *(GRADIENT + name for name in constants)):
        one, other = (f[name].astype(np.float64) for f in found)
        assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(other), name


def test_nodes_that_nothing_reads_are_left_out():
    model, constants = network("last", 16)
    graph = step_graph(model, list(constants), [], {"x": (2, 16, INPUTS)}).graph
    read = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    assert all(read.intersection(node.output) for node in graph.node)
