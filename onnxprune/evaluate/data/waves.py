"""Sounds as arrays of a model's only input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from onnxprune.errors import DataError
from onnxprune.evaluate.data.preprocessing import settings_of
from onnxprune.runtime import Array, TensorSpec
from onnxprune.support.sample_files import SETTINGS

_SCALES = {"u1": (128.0, 128.0), "i2": (0.0, 32768.0), "i4": (0.0, 2147483648.0)}
"""Offset and largest value of the integers of PCM files, by type."""
_VARIANCE = 1e-7
"""Added to the variance, as Wav2Vec2's feature extractor does."""


@dataclass(frozen=True)
class WaveReader:
    """Reads a ``.wav`` file: one channel, values of -1 to 1, one rate, the length of the input.

    Attributes:
        inner: Number of axes of size 1 between the samples and the time.
        length: Values of one sample, ``None`` where their number is free.
        rate: Samples a second.
        resamples: True if files of another rate are resampled; otherwise they are refused.
        normalises: True if each sound is shifted and scaled to mean 0 and variance 1.
        dtype: The element type of the input.
    """

    inner: int
    length: int | None
    rate: int
    resamples: bool
    normalises: bool
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, folder: Path, paths: list[Path], spec: TensorSpec) -> WaveReader:
        """Derive from the settings of a folder and the input of a model how its sounds are read.

        Without settings all files must have one rate.

        Raises:
            DataError: The input takes no sounds.
        """
        inner = spec.shape[1:-1]
        if len(spec.shape) < 2 or spec.dtype.kind != "f" or any(size != 1 for size in inner):
            raise DataError(
                f"{folder} holds sounds, and the input {spec} does not say that it takes any",
                "sounds fit an input of floats [samples, time], with axes of size 1 between; spectra and the "
                "like are given as .npz files or by module:callable",
            )
        settings: Mapping[str, Any] = settings_of(folder) or {}
        rate = settings.get("sampling_rate")
        length = spec.shape[-1] if isinstance(spec.shape[-1], int) else None
        return cls(
            len(inner),
            length,
            int(rate) if rate else _read(paths[0])[0],
            bool(rate),
            bool(settings.get("do_normalize", False)),
            spec.dtype,
        )

    def __call__(self, path: Path) -> Array:
        """Return a sound as an array of the input's shape; longer ones are cut, shorter ones get zeros.

        Raises:
            DataError: It cannot be read, or has another rate.
        """
        rate, values = _read(path)
        if rate != self.rate:
            if not self.resamples:
                raise DataError(
                    f"{path} has {rate} samples a second, other files {self.rate}",
                    f'write the rate of the model into {SETTINGS}, such as {{"sampling_rate": 16000}}',
                )
            common = math.gcd(rate, self.rate)
            values = _signal().resample_poly(values, self.rate // common, rate // common)
        if self.normalises:
            values = (values - values.mean()) / np.sqrt(values.var() + _VARIANCE)
        if self.length is not None:
            values = np.pad(values[: self.length], (0, max(0, self.length - len(values))))
        return values.reshape(*[1] * self.inner, -1).astype(self.dtype)


def _signal() -> ModuleType:
    """Import scipy's filters: no command that resamples nothing waits for them."""
    import scipy.signal

    module: ModuleType = scipy.signal
    return module


def _read(path: Path) -> tuple[int, Array]:
    """Return the rate of a file and its values of -1 to 1, the mean of its channels."""
    from scipy.io import wavfile

    try:
        rate, values = wavfile.read(path)
    except Exception as error:  # scipy raises many kinds on broken files
        raise DataError(f"{path} is not a readable .wav file: {error}", "convert it to PCM") from error
    kind = values.dtype.str[1:]
    if kind in _SCALES:
        offset, largest = _SCALES[kind]
        values = (values.astype(np.float64) - offset) / largest
    elif values.dtype.kind != "f":
        raise DataError(f"{path} holds values of type {values.dtype}", "convert it to PCM of 16 bits")
    values = values.astype(np.float64)
    return int(rate), values.mean(axis=1) if values.ndim > 1 else values
