"""A network written in another way computes the same, and as many of its channels can be removed."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import feeds_for, half_of_each, prune_exactly
from pruned_ideas import IDEAS
from spelled_networks import LIMITS, spelled

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.ir import Model, check
from onnxprune.passes import Prune
from onnxprune.runtime import Session, compare

Array = np.ndarray[Any, np.dtype[Any]]
EXACT = 1e-5
NEWEST, OLDEST = 20, 11


@cache
def plain(name: str) -> Channels:
    return find_channels(check(Model(IDEAS[name].build())))


def is_usual(name: str) -> bool:
    """Return whether an idea is of floats, and of operator sets that the spellings know."""
    proto, idea = IDEAS[name].build(), IDEAS[name]
    opset = Model(proto).opset()
    listed = {i.name for i in proto.graph.input} & {t.name for t in proto.graph.initializer}
    kinds = {t.data_type for t in proto.graph.initializer}
    other = kinds & {onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}
    return OLDEST <= opset <= NEWEST and not listed and not other and not idea.inexact


USUAL = sorted(filter(is_usual, IDEAS))


def channels_of(channels: Channels) -> int:
    return sum(group.size for group in channels.groups)


def is_limited(model: Model, used: Sequence[str]) -> bool:
    """Return whether fewer channels are expected: a maximum over channels has to know their signs."""
    maxima = {"ReduceMax", "GlobalMaxPool"}.intersection(n.op_type for n in model.nodes)
    return bool(maxima) or not LIMITS.isdisjoint(used)


@pytest.mark.slow
@pytest.mark.parametrize("name", USUAL)
def test_ideas_written_in_another_way(name: str) -> None:
    before = plain(name)
    model, used = spelled(before.model, seed=zlib.crc32(name.encode()))
    after = find_channels(model)
    lost = channels_of(before) - channels_of(after)
    assert lost <= 0 or is_limited(before.model, used), f"{lost} channels fewer after {used}"
    feeds = feeds_for(before.model, before, 1)
    sessions = (Session(m.proto, optimize=False) for m in (before.model, model))
    assert compare(*sessions, feeds).max_rel_error <= 1e-4
    if after.groups:
        assert prune_exactly(model, half_of_each(after), after).error <= 10 * EXACT


@pytest.mark.slow
@pytest.mark.parametrize("name", USUAL[::6])
def test_tensors_cut_and_joined_again_lose_no_channels(name: str) -> None:
    """Each tensor is cut at a random place of a random axis."""
    before = plain(name)
    model, used = spelled(before.model, zlib.crc32(name.encode()), share=2.0, only={"cut_and_joined"})
    assert len(used) > 3
    assert channels_of(find_channels(model)) == channels_of(before)


def test_the_spellings_change_much() -> None:
    """Most nodes are written in another way, by most of the spellings."""
    used: set[str] = set()
    for seed in range(3):
        before = plain("vit_fused_split")
        model, names = spelled(before.model, seed)
        assert len(names) > 0.4 * len(before.model.nodes)
        assert len(model.nodes) > 1.5 * len(before.model.nodes)
        used.update(names)
    assert len(used) > 30


def repaired_error(model: Model, data: dict[str, Array]) -> float:
    """Return the relative change of the results by pruning with samples."""
    step = Prune(reduce_macs=0.3, round_to=1, data=data, metric="cosine", rotate="never")
    given, pruned = (Session(m.proto).run(data) for m in (model, step(model).model))
    (name,) = given
    return float(np.abs(given[name] - pruned[name]).mean() / np.abs(given[name]).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("plain", "gemm_as_product_and_sum"),
        ("plain", "weight_transposed"),
        ("plain", "batch_normalization_as_convolution"),
        ("vit", "weight_reshaped"),
        ("vit", "matmul_transposed"),
        ("vit", "matmul_as_einsum"),
    ],
)
def test_layers_written_in_another_way_are_repaired_alike(name: str, way: str) -> None:
    model = plain(name).model
    random = np.random.default_rng(0)
    shapes = {k: v.shape[1:] for k, v in feeds_for(model, plain(name), 3)[0].items()}
    data = {k: random.standard_normal((96, *shape)).astype(np.float32) for k, shape in shapes.items()}
    other, used = spelled(model, 1, share=1.0, only={way})
    assert set(used) == {way}
    assert repaired_error(other, data) <= 1.05 * repaired_error(model, data)
