"""The widths of a dense model in its metadata."""

from __future__ import annotations

from helpers import Net

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.ir import Model
from onnxprune.passes import Prune, Transform


def network() -> Model:
    net = Net()
    return net.model(net.gemm(net.op("Relu", net.gemm(net.input("x", [2, 12]), 16)), 5))


def test_widths_are_noted() -> None:
    model = network()
    sparse = Prune(reduce_channels=0.5)(model).model
    dense = Transform()(sparse).model
    (group,) = find_channels(model).groups
    assert dense.metadata() == {"onnxprune.pruned": f"{group.name} 16 → 8"}


def test_earlier_notes_stay() -> None:
    dense = Transform()(Prune(reduce_channels=0.5)(network()).model).model
    again = Transform()(Prune(reduce_channels=0.5)(dense).model).model
    first, second = again.metadata()["onnxprune.pruned"].split("; ")
    assert first.endswith("16 → 8")
    assert second.endswith("8 → 4")
