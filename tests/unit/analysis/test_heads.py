"""Groups of attention heads are told apart from groups of channels."""

from __future__ import annotations

import pytest
from ideas import IDEAS

from onnxprune import find_channels
from onnxprune.analysis.groups.attention_heads import heads_of
from onnxprune.ir import Model, check
from onnxprune.models.kinds import decoder, transformer


def test_heads_of_an_encoder() -> None:
    channels = find_channels(check(Model(transformer())))
    sizes = {g.size for g in channels.groups if g.name in heads_of(channels)}
    assert sizes == {4}
    assert len(heads_of(channels)) == 2


def test_heads_of_keys_and_values_that_may_shrink() -> None:
    from onnxprune.ir import opened

    channels = find_channels(opened(check(Model(decoder())), ["past*", "present*"]))
    assert {g.size for g in channels.groups if g.name in heads_of(channels)} == {2}


@pytest.mark.parametrize("name", ["residual", "resnext", "shufflenet_v1", "lstm", "swiglu"])
def test_channels_are_no_heads(name: str) -> None:
    assert not heads_of(find_channels(check(Model(IDEAS[name].build()))))
