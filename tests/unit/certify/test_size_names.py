"""Names of sizes without a closed form: equal for equal expressions, and no longer than a digest."""

from __future__ import annotations

from helpers import Net

from onnxprune.certify.reading.graph import Graph
from onnxprune.certify.sizes.size_monomials import SIZE, computed, is_natural, size_of, unknown
from onnxprune.ir import Model


def doubled(start: str, rounds: int = 60) -> str:
    name = start
    for _ in range(rounds):
        (name,) = size_of(f"left({name}, {name})").unknowns
    return name


def test_names_that_hold_each_other_twice_stay_short_and_apart() -> None:
    names = {start: doubled(start) for start in ("a", "b")}
    assert all(len(name) < 500 for name in names.values())
    assert names == {start: doubled(start) for start in ("a", "b")}
    assert len({*names.values(), doubled("a", 61)}) == 3
    assert is_natural(size_of("a" * 500))
    assert not is_natural(unknown("a" * 500))


def test_arithmetic_on_long_names_keeps_its_operands() -> None:
    sizes = [size_of(start * 300) for start in "ab"]
    (name,) = computed("Min", *sizes).unknowns
    assert name.startswith(f"{SIZE}#")
    assert name.operator == "Min"
    assert set(name.operands) == set(sizes)


def adding(layers: int) -> Model:
    """Sums of a tensor and itself as rows of two that are lined up again: the size is not solved for."""
    net = Net()
    y = net.input("x", ["n"])
    for _ in range(layers):
        y = net.op("Add", y, net.reshape(net.reshape(y, 2, -1), -1))
    return net.model(y)


def test_sizes_of_deep_networks_are_found_at_once() -> None:
    model = adding(60)
    graph = Graph(model.proto, "sparse")
    nodes = list(graph.flattened(graph.main))
    assert len(graph.sizes[nodes[-1].output[0]]) == 1
