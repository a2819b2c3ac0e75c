"""Sizes of a convolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution.

    Attributes:
        samples: Pictures.
        channels: Channels of the data.
        made: Channels of the result.
        group: Groups of channels.
        size: Positions of the data on each spatial axis.
        outputs: Positions of the result on each spatial axis.
        kernel: Taps.
        strides: Distance between positions.
        dilations: Distance between taps.
        begin: Padding in front.
        end: Padding behind.
    """

    samples: int
    channels: int
    made: int
    group: int
    size: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @classmethod
    def of(
        cls, given: Mapping[str, Any], data: Sequence[int], weight: Sequence[int], result: Sequence[int]
    ) -> Geometry:
        """Read the attributes of a Conv with explicit pads, and the shapes of its operands and result."""
        axes = len(weight) - 2
        pads = tuple(given.get("pads") or [0] * (2 * axes))
        return cls(
            data[0],
            data[1],
            weight[0],
            given.get("group", 1),
            tuple(data[2:]),
            tuple(result[2:]),
            tuple(weight[2:]),
            tuple(given.get("strides") or [1] * axes),
            tuple(given.get("dilations") or [1] * axes),
            pads[:axes],
            pads[axes:],
        )

    @property
    def axes(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def each(self) -> int:
        """Channels of the data in a group."""
        return self.channels // self.group

    @property
    def padded(self) -> bool:
        """Return whether there is padding."""
        return any(self.begin) or any(self.end)

    @property
    def pointwise(self) -> bool:
        """Return whether every result looks at a single position."""
        return all(taps == 1 for taps in self.kernel) and not self.padded

    @property
    def unread(self) -> tuple[int, ...]:
        """Positions behind the last window, which no result looks at."""
        return tuple(
            size + begin + end - (taps - 1) * dilation - 1 - (outputs - 1) * stride
            for size, begin, end, taps, dilation, outputs, stride in zip(
                self.size,
                self.begin,
                self.end,
                self.kernel,
                self.dilations,
                self.outputs,
                self.strides,
                strict=True,
            )
        )
