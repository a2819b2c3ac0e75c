"""Operators that carry a state from run to run: linear attention and causal convolutions."""

from __future__ import annotations

from onnxprune.algebra.sizes.algebra import Value, floor_div
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.table import MICROSOFT, size_rule


@size_rule("LinearAttention")
@size_rule("LinearAttention", domain=MICROSOFT)
def linear_attention(node: SizedNode) -> None:
    """A value of each query head for each place; a matrix of each key head as the state.

    Where com.microsoft's has more key heads than query heads, the former count.
    """
    query, key, value = (node.shape(k) for k in range(3))
    heads, groups = node.required("q_num_heads"), node.required("kv_num_heads")
    kind = node.kind(3) if node.has(3) else node.kind()
    if query is None or value is None:
        node.put_rank(3)
        return
    width = floor_div(value[2], groups)
    node.put(0, [query[0], query[1], max(heads, groups) * width])
    depth: Value = node.fresh(1, 2) if key is None else floor_div(key[2], groups)
    window = node.attribute("state_window", 0)
    node.put(1, [*([window] if window else []), query[0], groups, depth, width], kind)


@size_rule("CausalConvWithState")
@size_rule("CausalConvWithState", domain=MICROSOFT)
def causal_convolution(node: SizedNode) -> None:
    """The shape of the operand; the state holds as many places as the kernel looks back."""
    shape, weight = node.shape(), node.shape(1)
    kind = node.kind(3) if node.has(3) else node.kind()
    if shape is None:
        node.put(0, None)
        return
    last, chosen = node.flag("channels_last"), node.attribute("input_channels", 0)
    node.put(0, [*shape[:-1], chosen] if chosen else shape)
    if len(shape) != 3 and not last:
        node.put_rank(len(shape), kind, place=1)
        return
    channels = list(shape[2:] if last else shape[1:2])
    channels = [chosen] if chosen else channels
    length: Value = node.attribute("state_length", 0) or (
        node.fresh(1, 2) if weight is None else (weight[-1] - 1) * node.attribute("dilation", 1)
    )
    layout = node.attribute("state_channels_last", -1)
    state = [length, *channels] if (last if layout < 0 else layout) else [*channels, length]
    window = node.attribute("state_window", 0)
    node.put(1, [*([window] if window else []), shape[0], *state], kind)
    node.put(2, [shape[0], node.attribute("state_update_capacity", 0), *channels])
