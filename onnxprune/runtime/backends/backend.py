"""The interface of latency back-ends."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeAlias

import onnx

from onnxprune.errors import DeviceError
from onnxprune.runtime.latency_measurement import Latency
from onnxprune.runtime.session import Feeds

Done: TypeAlias = Callable[[int, Latency], None]
"""Called with each model that has been timed, by its number, as soon as its figure is complete."""


def ignore(_number: int, _latency: Latency) -> None:
    """Drop a figure."""


class LatencyBackend(ABC):
    """A runtime or device on which models are timed.

    Attributes:
        name: The back-end as the user names it.
    """

    name: str
    slow: ClassVar[bool] = False
    """Figures take seconds each, so that they are kept in small portions."""

    @property
    @abstractmethod
    def device(self) -> str:
        """The name of the device, for people."""

    def figure(self, latency: Latency) -> float:
        """Return the time that plans go by, in milliseconds: the median."""
        return latency.median_ms

    @abstractmethod
    def measure(
        self,
        models: Sequence[onnx.ModelProto],
        feeds: Sequence[Feeds],
        *,
        rounds: int = 50,
        threads: int | None = None,
        done: Done = ignore,
    ) -> list[Latency]:
        """Time several models.

        Args:
            models: The models, their weights in memory.
            feeds: The inputs of each.
            rounds: Number of turns of each model; a back-end outside this process may take fewer.
            threads: Threads of a run; ``None`` leaves it to the runtime. A device has a setting of its own.
            done: Called with each figure.

        Returns:
            One result a model, in their order, in milliseconds a run.

        Raises:
            DeviceError: The device or its program failed, took too long, or returned no time.
            ModelError: The runtime refuses a model.
        """


def checked_figures(figures: Sequence[float], origin: str) -> list[float]:
    """Return milliseconds that can be times.

    Args:
        figures: Milliseconds.
        origin: Origin of the figures, the subject of the sentence.

    Raises:
        DeviceError: There are none, or one is not positive and finite.
    """
    wrong = [f for f in figures if not (math.isfinite(f) and f > 0)]
    if wrong or not figures:
        found = f"{wrong[0]:g}" if wrong else "nothing"
        raise DeviceError(f"{origin} returned {found} as the time of a run", FIGURES_HINT)
    return list(figures)


FIGURES_HINT = (
    "the last line it prints is the time of one run in milliseconds, such as 12.5; of several numbers the"
    " median counts"
)
