"""Pictures as arrays of a model's only input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import DataError
from onnxprune.evaluate.data.preprocessing import settings_of
from onnxprune.runtime import Array, TensorSpec
from onnxprune.support.memory import need
from onnxprune.support.progress import tell_once
from onnxprune.support.sample_files import SETTINGS

_MODES = {1: "L", 3: "RGB"}
_COLOURS = {1: "shades of grey", 3: "RGB"}
_BILINEAR = 2
"""Pillow's number of the filter, as the settings write it."""


@dataclass(frozen=True)
class PictureReader:
    """Reads a picture: resize, centre crop, scale, normalise, in this order.

    Attributes:
        channels: 1 for grey, 3 for red, green and blue.
        first: True if the channels are the first axis, else the last.
        resize: Height and width in pixels to resize to, or one number for the shorter edge, or ``None``.
        crop: Height and width of the part of the centre that is kept, or ``None``.
        resample: Pillow's number of the resampling filter.
        factor: Factor for the values of 0 to 255.
        mean: Subtracted from each channel after that.
        std: Divisor of each channel after that.
        dtype: The element type of the input.
    """

    channels: int
    first: bool
    resize: tuple[int, ...] | None
    crop: tuple[int, int] | None
    resample: int
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, folder: Path, paths: list[Path], spec: TensorSpec) -> PictureReader:
        """Derive from the settings of a folder and the input of a model how its pictures are read.

        Without settings a picture is resized to the size of the input, and its values scaled to 0 to 1;
        a message states these settings.

        Raises:
            DataError: The input takes no pictures, or settings and input contradict each other.
        """
        del paths
        channels, first = _layout(folder, spec)
        settings = settings_of(folder)
        if settings is None:
            settings = _usual(folder, spec, channels, first)
        reader = _reader(settings, channels, first, spec.dtype)
        _check_size(reader, spec)
        return reader

    def __call__(self, path: Path) -> Array:
        """Return a picture as an array, ``[channels, height, width]`` or ``[height, width, channels]``.

        Raises:
            DataError: It cannot be read.
        """
        try:
            pixels = self._pixels(path)
        except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all of them for broken files
            raise DataError(f"{path} is not a readable picture: {error}", "remove or replace it") from error
        if self.dtype.kind == "f":
            mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
            pixels = (pixels * np.float32(self.factor) - mean) / std
        return np.ascontiguousarray(np.moveaxis(pixels, -1, 0) if self.first else pixels, self.dtype)

    def _pixels(self, path: Path) -> Array:
        """Return the values of 0 to 255 as ``float32``, ``[height, width, channels]``."""
        image = _pillow()
        with image.open(path) as opened:
            width, height = opened.size
            need(width * height * 4, f"picture {path}", DataError)
            picture = opened.convert(_MODES[self.channels])
        if self.resize is not None:
            height, width = _resized(picture.size[::-1], self.resize)
            picture = picture.resize((width, height), self.resample)
        if self.crop is not None:
            picture = picture.crop(_centre(picture.size, self.crop))
        return np.asarray(picture, np.float32).reshape(*picture.size[::-1], self.channels)


def _pillow() -> Any:
    """Import Pillow's ``Image``.

    Raises:
        DataError: It is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(
            "pictures are read by Pillow, which is not installed", 'pip install "onnxprune[data]"'
        ) from error
    Image.MAX_IMAGE_PIXELS = None  # the memory allowed is compared instead
    return Image


def _layout(folder: Path, spec: TensorSpec) -> tuple[int, bool]:
    """Return the number of channels of an input, and whether they are axis 1; else they are axis 3."""
    if len(spec.shape) == 4 and (spec.dtype.kind == "f" or spec.dtype == np.uint8):
        found = [axis for axis in (1, 3) if spec.shape[axis] in _MODES]
        if len(found) == 1:
            size = spec.shape[found[0]]
            assert isinstance(size, int)
            return size, found[0] == 1
    raise DataError(
        f"{folder} holds pictures, and the input {spec} does not say that it takes any",
        "pictures fit an input of four axes, the second or the fourth of size 1 or 3; else write .npz files",
    )


def _usual(folder: Path, spec: TensorSpec, channels: int, first: bool) -> dict[str, Any]:
    """Return the settings for a folder that has none, and show them in a message."""
    known = _fixed(spec.shape[2:] if first else spec.shape[1:3])
    if known is None:
        raise DataError(
            f"the input {spec} takes pictures of any size",
            f'write a size into {folder / SETTINGS}, such as {{"size": {{"height": 224, "width": 224}}}}',
        )
    scale = "values scaled to 0 to 1" if spec.dtype.kind == "f" else "values of 0 to 255"
    tell_once(
        f"{folder}: pictures are resized to {known[0]}×{known[1]}, {_COLOURS[channels]}, {scale}; "
        f"a {SETTINGS} in the folder changes that"
    )
    return {"size": {"height": known[0], "width": known[1]}}


def _reader(settings: Mapping[str, Any], channels: int, first: bool, dtype: np.dtype[Any]) -> PictureReader:
    """Read settings as Hugging Face's processors do; a step whose numbers are there is done unless denied."""

    def done(step: str, *keys: str) -> bool:
        return bool(settings.get(step, any(key in settings for key in keys)))

    crop = settings.get("crop_size") if done("do_center_crop", "crop_size") else None
    rescales = bool(settings.get("do_rescale", True))
    normalises = done("do_normalize", "image_mean", "image_std")
    return PictureReader(
        channels,
        first,
        _size(settings["size"]) if "size" in settings and done("do_resize", "size") else None,
        None if crop is None else _two(crop),
        int(settings.get("resample", _BILINEAR)),
        float(settings.get("rescale_factor", 1 / 255)) if rescales else 1.0,
        _by_channel(settings.get("image_mean", 0.0) if normalises else 0.0, channels),
        _by_channel(settings.get("image_std", 1.0) if normalises else 1.0, channels),
        dtype,
    )


def _size(found: Any) -> tuple[int, ...]:
    if isinstance(found, Mapping) and "shortest_edge" in found:
        return (int(found["shortest_edge"]),)
    return _two(found)


def _two(found: Any) -> tuple[int, int]:
    if isinstance(found, Mapping):
        return int(found["height"]), int(found["width"])
    return int(found), int(found)


def _by_channel(found: Any, channels: int) -> tuple[float, ...]:
    values = tuple(map(float, found)) if isinstance(found, list) else (float(found),) * channels
    if len(values) != channels:
        raise DataError(
            f"the settings normalise {len(values)} channels, and the input has {channels}",
            "give one number for each channel",
        )
    return values


def _fixed(sizes: Sequence[int | str | None]) -> tuple[int, int] | None:
    height, width = sizes
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _check_size(reader: PictureReader, spec: TensorSpec) -> None:
    """Refuse settings that make pictures of another size than the input takes."""
    target = _fixed(spec.shape[2:] if reader.first else spec.shape[1:3])
    made = reader.crop or (reader.resize if reader.resize and len(reader.resize) == 2 else None)
    if target is not None and made is not None and made != target:
        raise DataError(
            f"the settings make pictures of {made[0]}×{made[1]}, and the input is {spec}",
            f"write the size of the input into {SETTINGS}",
        )


def _resized(size: tuple[int, int], target: tuple[int, ...]) -> tuple[int, int]:
    """Return height and width of a picture that is resized, by its shorter edge or both."""
    if len(target) == 2:
        return target[0], target[1]
    short = min(size)
    return tuple(max(1, round(edge * target[0] / short)) for edge in size)  # type: ignore[return-value]


def _centre(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box of a centre crop; beyond the picture Pillow puts zeros."""
    left, top = (size[0] - target[1]) // 2, (size[1] - target[0]) // 2
    return left, top, left + target[1], top + target[0]
