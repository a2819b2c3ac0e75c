"""A node's attributes as Python values, decoded on access.

The attributes of some nodes are large (the trees of an ensemble, a table of words): an access to one
attribute decodes that one alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import onnx
from onnx import helper


class Attributes(Mapping[str, Any]):
    """The attributes of a node by name, strings decoded.

    Args:
        node: The node; later changes of it are visible.
    """

    def __init__(self, node: onnx.NodeProto) -> None:
        self._node = node

    def __getitem__(self, name: str) -> Any:
        for attribute in self._node.attribute:
            if attribute.name == name:
                return _decoded(helper.get_attribute_value(attribute))
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(attribute.name == name for attribute in self._node.attribute)

    def __iter__(self) -> Iterator[str]:
        return (attribute.name for attribute in self._node.attribute)

    def __len__(self) -> int:
        return len(self._node.attribute)


def attributes(node: onnx.NodeProto) -> Attributes:
    """Return a node's attributes."""
    return Attributes(node)


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return [v.decode("utf-8", "replace") for v in value]
    return value
