"""Local functions put in the places of their calls; how much that makes is counted before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError

from onnxprune.errors import ModelError
from onnxprune.ir.damage import EXPORT_AGAIN, Holder
from onnxprune.support.memory import need

MOST_NODES = 200_000
"""Limit of the nodes after inlining, for a file that has fewer itself."""
_COPIES = 4
"""Copies of the result that inlining has in memory at a time."""
_Key = tuple[str, str, str]


def inlined(proto: onnx.ModelProto, model: str) -> onnx.ModelProto:
    """Return a model without local functions.

    Args:
        proto: A model whose names are text.
        model: Name of the model in messages.

    Raises:
        ModelError: A function calls itself, is there twice, or inlining exceeds the limit.
    """
    functions = {_key(f): f for f in proto.functions}
    if len(functions) < len(proto.functions):
        keys = [_key(f) for f in proto.functions]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ModelError(f"{model}: the local function '{_name_of(twice)}' is there twice", EXPORT_AGAIN)
    nodes, size = _count(proto, functions, model)
    if nodes > max(MOST_NODES, sum(len(h.node) for h in (proto.graph, *proto.functions))):
        raise ModelError(
            f"{model}: its local functions call one another to {nodes:,} nodes, more than {MOST_NODES:,}",
            "export the part that is to be pruned by itself",
        )
    need(_COPIES * size, f"{model}: putting its local functions in the places of {nodes:,} nodes")
    try:
        return onnx.inliner.inline_local_functions(_with_defaults(proto, functions))
    except (onnx.checker.ValidationError, RuntimeError, ValueError, DecodeError) as error:
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"{model}: its local functions cannot be inlined: {cause}", EXPORT_AGAIN) from error


def _with_defaults(proto: onnx.ModelProto, functions: Mapping[_Key, onnx.FunctionProto]) -> onnx.ModelProto:
    """Return a model whose calls state the attributes that their functions give a default.

    ``onnx.inliner`` leaves such an attribute out; the operator's own default would take its place.
    """
    defaults = {key: list(f.attribute_proto) for key, f in functions.items() if f.attribute_proto}
    if not defaults:
        return proto
    found = onnx.ModelProto()
    found.CopyFrom(proto)
    for holder in (found.graph, *found.functions):
        for node in _nodes(holder):
            stated = {a.name for a in node.attribute}
            key = (node.domain, node.op_type, node.overload)
            node.attribute.extend(a for a in defaults.get(key, ()) if a.name not in stated)
    return found


def _count(
    proto: onnx.ModelProto, functions: Mapping[_Key, onnx.FunctionProto], model: str
) -> tuple[int, int]:
    """Return the nodes, and about the bytes, of the main graph once all calls are inlined.

    Functions are counted once each, those they call before them: depth costs no recursion.
    """
    counted: dict[_Key, tuple[int, int]] = {}
    for first in functions:
        waiting: list[_Key] = [first]
        within: dict[_Key, None] = {}
        while waiting:
            key = waiting[-1]
            within.setdefault(key)
            calls = _calls(functions[key], functions)
            missing = [c for c in calls if c not in counted]
            if circle := next((c for c in missing if c in within), None):
                raise ModelError(
                    f"{model}: the local function '{_name_of(circle)}' calls itself, by way of others or not",
                    EXPORT_AGAIN,
                )
            if missing:
                waiting.append(missing[0])
                continue
            counted[key] = _with_calls(functions[key], calls, counted)
            within.pop(waiting.pop())
    return _with_calls(proto.graph, _calls(proto.graph, functions), counted)


def _with_calls(
    holder: Holder, calls: Mapping[_Key, int], counted: Mapping[_Key, tuple[int, int]]
) -> tuple[int, int]:
    """Return nodes and bytes of a graph or function, those of its callees counted once a call."""
    own = sum(1 for _ in _nodes(holder)) - sum(calls.values())
    nodes = own + sum(times * counted[c][0] for c, times in calls.items())
    return nodes, holder.ByteSize() + sum(times * counted[c][1] for c, times in calls.items())


def _calls(holder: Holder, functions: Mapping[_Key, onnx.FunctionProto]) -> dict[_Key, int]:
    """Return which functions are called inside a graph or function, and how often."""
    found: dict[_Key, int] = {}
    for node in _nodes(holder):
        key = (node.domain, node.op_type, node.overload)
        if key in functions:
            found[key] = found.get(key, 0) + 1
    return found


def _nodes(holder: Holder) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph or function, and of all graphs inside it."""
    for node in holder.node:
        yield node
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _nodes(inner)


def _key(function: onnx.FunctionProto) -> _Key:
    return function.domain, function.name, function.overload


def _name_of(key: _Key) -> str:
    return "::".join(part for part in key if part)
