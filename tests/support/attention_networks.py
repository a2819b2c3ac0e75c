"""Networks with attention in one node."""

from __future__ import annotations

from helpers import Net, half_of_each, prune_exactly
from onnx import helper

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.ir import Model

MICROSOFT = "com.microsoft"


def assert_halves(model: Model, *widths: int) -> Channels:
    """Half the channels of every group go, optional ones included, exactly; the groups are as expected."""
    channels = find_channels(model)
    assert sorted(g.size for g in channels.groups) == sorted(widths), channels.blocked
    for optional in (False, True):
        outcome = prune_exactly(model, half_of_each(channels, optional=optional), channels)
        assert outcome.error <= 1e-5
        assert outcome.change > 1e-3
    return channels


def contrib(
    net: Net, kind: str, *operands: str, shape: list[int], outputs: int = 1, **attributes: object
) -> str:
    """Add an operator of onnxruntime's own whose first result has a given shape."""
    made = net.ops(kind, *operands, outputs=outputs, domain=MICROSOFT, **attributes)
    net.types[made[0]] = helper.make_tensor_type_proto(net.kind, shape)
    return made[0]


def projections(net: Net, x: str, queries: int, keys: int, values: int, memory: str = "") -> list[str]:
    memory = memory or x
    return [net.linear(x, queries), net.linear(memory, keys), net.linear(memory, values)]
