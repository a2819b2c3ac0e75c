"""Models as files for programs outside this process."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnxprune.runtime.session import Feeds
from onnxprune.support.mapped import load_all

_LARGEST_MESSAGE = 1 << 30
"""Bytes of weights beyond which they go into a file of their own: a protobuf message ends at 2 GB."""


def write_fixed(model: onnx.ModelProto, feeds: Feeds, path: Path) -> Path:
    """Write a model whose inputs have the shapes that are timed, for devices without open axes.

    Args:
        model: The model, its weights in memory; it is not changed.
        feeds: An array for each input.
        path: The file to write; large weights go beside it, into ``<name>.data``.

    Returns:
        The path.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(load_all(model))
    for value in fixed.graph.input:
        if value.name in feeds:
            _fix(value, feeds[value.name].shape)
    large = sum(len(t.raw_data) for t in fixed.graph.initializer) > _LARGEST_MESSAGE
    onnx.save(fixed, path, save_as_external_data=large, location=f"{path.name}.data" if large else None)
    return path


def _fix(value: onnx.ValueInfoProto, sizes: tuple[int, ...]) -> None:
    declared = value.type.tensor_type.shape
    del declared.dim[:]
    for size in sizes:
        declared.dim.add().dim_value = size
