"""Tensors of samples at each cut: within the memory limit, and equal bit for bit at any limit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from curves import GROUPS, net, samples

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.metrics import get_metric
from onnxprune.evaluate.sensitivity.sample_stages import MeasurementSetup, observe
from onnxprune.evaluate.sensitivity.variants import VariantEvaluator
from onnxprune.runtime import Session

BATCH = 8


def examiner(cache_bytes: int) -> VariantEvaluator:
    model = net()
    session = Session(model.proto, threads=1)
    dataset = open_data(samples(model), session.inputs, session.outputs)
    exam = MeasurementSetup(get_metric("kl"), batch_size=BATCH, cache_bytes=cache_bytes)
    return VariantEvaluator(
        find_channels(model), observe(session, [dataset], exam), [[name] for name in GROUPS]
    )


def tensors(found: VariantEvaluator, stop: int, limit: int) -> list[dict[str, Any]]:
    at, batches = found._route.cuts[stop], []
    for piece in found.pieces(0, stop):
        held = found._prefixes[0]._held
        known = {id(h): h.nbytes for h in (*held, *piece)}
        assert sum(known.values()) <= limit or len(piece) == 1
        batches += [{n: h.tensors[n].copy() for n in (*at.carried, *at.unreached)} for h in piece]
    return batches


@pytest.mark.parametrize("limit", [0, 15_000, 40_000, 100_000, 1 << 30])
def test_the_limit_is_kept_and_changes_nothing(limit: int) -> None:
    limited, free = examiner(limit), examiner(1 << 30)
    for stop in range(len(GROUPS)):
        few, all_of_them = tensors(limited, stop, limit), tensors(free, stop, 1 << 30)
        assert len(few) == len(all_of_them) == 5
        for one, other in zip(few, all_of_them, strict=True):
            assert one.keys() == other.keys()
            for name, values in one.items():
                np.testing.assert_array_equal(values, other[name])


def test_the_way_there_changes_nothing() -> None:
    """Straight to the last cut, or by all others; and back to the first."""
    direct, along = examiner(1 << 30), examiner(1 << 30)
    for stop in range(len(GROUPS)):
        last = tensors(along, stop, 1 << 30)
    for one, other in zip(tensors(direct, len(GROUPS) - 1, 1 << 30), last, strict=True):
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name])
    for one, other in zip(tensors(along, 0, 1 << 30), tensors(examiner(1 << 30), 0, 1 << 30), strict=True):
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name])
