"""Static quantisation to 8 bits by onnxruntime, calibrated on samples."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx

from onnxprune.errors import ModelError


def quantised(model: onnx.ModelProto, feeds: Iterable[dict[str, Any]], folder: Path) -> onnx.ModelProto:
    """Quantise weights and activations to 8 bits, in the QDQ form.

    Weights are signed and have a scale a channel, activations are unsigned and have the range that the
    samples show: the recommendation of onnxruntime's documentation for x86-64 and ARM64. Its preprocessing
    comes first, where it can: BatchNormalization is folded, else it stays a float operator between roundings.

    Args:
        model: The network.
        feeds: Samples, arrays for every input of the model.
        folder: An empty folder to work in.

    Returns:
        The quantised network.

    Raises:
        ModelError: onnxruntime does not quantise it.
    """
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[dict[str, Any]] = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    source, prepared, made = (folder / f"{name}.onnx" for name in ("float", "prepared", "int8"))
    onnx.save(model, source)
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)  # it recommends preprocessing that the model has had
    try:
        with suppress(Exception):  # it only prepares: the model as it is can be quantised, too
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        q.quantize_static(
            str(prepared if prepared.exists() else source),
            str(made),
            Reader(),
            quant_format=q.QuantFormat.QDQ,
            per_channel=True,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
        )
        return onnx.load(made)
    except Exception as error:  # after any exception the float model stands
        raise ModelError(
            f"onnxruntime does not quantise the model: {error}", "leave --quantize out, and quantise by hand"
        ) from error
    finally:
        logger.setLevel(before)
