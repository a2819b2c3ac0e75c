"""Checks of one operator's rule on one of onnx's examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import single_nodes
from helpers import prune_exactly

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.errors import ModelError
from onnxprune.ir import Model, check
from onnxprune.runtime import Session, sample_feeds

TOLERANCES = {onnx.TensorProto.FLOAT16: 2e-2}

SHAPES_INFERRED_WRONGLY = {"test_stft", "test_stft_with_window"}
"""onnx infers other shapes than its own examples have."""


def check_example(case: Any, **variant: bool) -> None:
    proto = single_nodes.network(case, **variant)
    if proto is None or case.name in SHAPES_INFERRED_WRONGLY:
        return
    model = check(Model(proto))
    channels = find_channels(model)
    check_sizes(case, channels)
    if channels.groups and runs(proto):
        check_exact(model, channels)


def check_sizes(case: Any, channels: Channels) -> None:
    typing = channels.typing
    for info, value in zip(case.model.graph.output, case.data_sets[0][1], strict=True):
        if info.name in typing.axes:
            sizes = [d.size for d in typing.axes[info.name]]  # open where they depend on the data
            assert len(sizes) == value.ndim, case.name
            pairs = zip(sizes, value.shape, strict=True)
            assert all(a == b for a, b in pairs if isinstance(a, int)), case.name


def check_exact(model: Model, channels: Channels) -> None:
    kinds = {i.type.tensor_type.elem_type for i in model.inputs}
    allowed = max(TOLERANCES.get(k, 1e-4) for k in kinds)
    random = np.random.default_rng(0)
    for seed in range(2):
        removed = {
            g.name: sorted(random.permutation(g.size)[: random.integers(1, g.size)].tolist())
            for g in channels.groups
        }
        assert prune_exactly(model, removed, channels, seed).error <= allowed


def runs(proto: onnx.ModelProto) -> bool:
    """Return whether the runtime has this operator, for these types."""
    try:
        session = Session(proto, optimize=False)
        session.run(sample_feeds(session.inputs)[0])
    except ModelError:
        return False
    return True
