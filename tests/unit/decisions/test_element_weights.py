"""The weights whose elements may be removed."""

from __future__ import annotations

import pytest
from deep_networks import plain

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.decisions.elements import find_weights
from onnxprune.ir.index import GraphIndex
from onnxprune.ir.model import Model


def test_each_value_is_followed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Conv of a chain reads data; the chain before it is not followed again."""
    monkeypatch.setattr(Model, "verified", False)
    questions, producer = [0], GraphIndex.producer

    def counted(index: GraphIndex, name: str) -> object:
        questions[0] += 1
        return producer(index, name)

    monkeypatch.setattr(GraphIndex, "producer", counted)
    counts = []
    for nodes in (50, 200):
        channels = find_channels(plain(nodes))
        questions[0] = 0
        weights, unfit = find_weights(channels)
        assert len(weights) > nodes / 4
        assert not unfit
        counts.append(questions[0])
    assert counts[1] < 5 * counts[0]
