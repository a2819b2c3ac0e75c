"""Options that several passes share, each written once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

from onnxprune.errors import UsageError
from onnxprune.support.option_fields import Key, NumberRange, option

FRACTION = NumberRange(above=0, below=1)
LATENCY_TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class GroupSelection:
    """The choice of groups.

    Attributes:
        exclude: Globs of groups, nodes or tensors to leave alone.
        only: Globs of groups, nodes or tensors to work on, and on no others.
    """

    exclude: Sequence[str] = field(default=(), metadata=option(metavar="GLOB", key=Key()))
    only: Sequence[str] = field(default=(), metadata=option(metavar="GLOB", key=Key(example='["block*"]')))


@dataclass(frozen=True, kw_only=True)
class InexactAxes:
    """The choice of axes that a cut keeps only nearly exact.

    Attributes:
        allow_inexact: Also open axes the model normalises over; the result is then only nearly the same.
    """

    allow_inexact: bool = field(
        default=False, metadata=option(key=Key(note="true: also axes the model normalises over"))
    )


@dataclass(frozen=True, kw_only=True)
class Unchanged:
    """The answer where there is nothing to do.

    Attributes:
        allow_unchanged: Write a copy, and do not fail, where there is nothing to do.
    """

    allow_unchanged: bool = False


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """The seed of a pass that draws numbers.

    Attributes:
        seed: Seed of everything that is drawn.
    """

    seed: int = field(default=0, metadata=option(least=0))


@dataclass(frozen=True, kw_only=True)
class Threaded:
    """The threads of a pass that runs models.

    Attributes:
        threads: Threads to compute with.
    """

    threads: int | None = field(default=None, metadata=option(least=1))


@dataclass(frozen=True, kw_only=True)
class InputSizes:
    """The sizes that a model is analysed and run with.

    Attributes:
        input_shapes: Full shape of an input to analyse and run with, such as image=1x3x640x640; other inputs
            follow where their axes have the same names.
        dims: Size of an open axis to analyse and run with, such as sequence_length=128; one without a name is
            called INPUT.AXIS, such as image.2.
    """

    input_shapes: Mapping[str, tuple[int, ...]] = field(
        default_factory=dict,
        metadata=option(flag="--shape", metavar="NAME=SHAPE", example="name=1x3x640x640", least=1),
    )
    dims: Mapping[str, int] = field(
        default_factory=dict,
        metadata=option(flag="--dim", metavar="NAME=N", example="sequence_length=128", least=1),
    )


@dataclass(frozen=True, kw_only=True)
class OpenInterface:
    """The inputs and outputs that may shrink.

    Attributes:
        open_io: Let the fixed axes of this input or output shrink, such as 'past*' of caches.
    """

    open_io: Sequence[str] = field(default=(), metadata=option(metavar="GLOB"))


@dataclass(frozen=True, kw_only=True)
class EqualLayers(OpenInterface):
    """The channels that layers keep along inputs and outputs that may shrink.

    Attributes:
        equal_layers: Keep as many in every layer along each axis that ``open_io`` opens: some runtimes need
            one number.
    """

    equal_layers: bool = field(
        default=False,
        metadata=option(
            key=Key(
                text="Keep as many in every layer along each axis that ``open_io`` opens.",
                note="true: as many in every layer along each axis that open_io opens",
            )
        ),
    )


@dataclass(frozen=True, kw_only=True)
class LatencyOptions:
    """The runtime or device on which latency is measured, see `onnxprune.runtime.backends`.

    Attributes:
        latency_backend: Runtime or device timed: onnxruntime[:PROVIDER] (the default), openvino[:DEVICE],
            tensorrt[:trtexec or :polygraphy], module:callable, or a command that is given a model file and
            prints milliseconds: 'cmd:ssh board bench {model}'.
        latency_timeout: Seconds one call of such a command may take.
    """

    latency_backend: str | None = field(default=None, metadata=option(metavar="NAME"))
    latency_timeout: float = field(default=LATENCY_TIMEOUT_S, metadata=option(metavar="SECONDS", above=0))


@dataclass(frozen=True, kw_only=True)
class LatencyTableOptions(LatencyOptions):
    """The options of a latency budget, with a file of figures of the device.

    Attributes:
        latency_table: Figures of the device: measurements are stored there, so that the command goes on
            where it was stopped; a file made elsewhere with bench --latency-out is used as it is, without
            measurements. Its steps round the groups for every budget.
    """

    latency_table: Path | None = field(default=None, metadata=option(metavar="FILE", place="writes"))


@dataclass(frozen=True, kw_only=True)
class Reductions:
    """Reductions of costs, as removed fractions of the cost of the model before any pruning.

    Attributes:
        reduce_macs: Remove this fraction of the MACs.
        reduce_params: Remove this fraction of the parameters.
        reduce_size: Remove this fraction of the file's bytes.
        reduce_latency: Remove this fraction of the time one run takes, measured (see ``latency_backend``).
        reduce_channels: Remove this fraction of the channels.
    """

    leads: ClassVar[bool] = True

    reduce_macs: float | None = field(
        default=None,
        metadata=option(metavar="R", key=Key(text="Of the multiply-accumulates.", bounds=FRACTION)),
    )
    reduce_params: float | None = field(
        default=None,
        metadata=option(metavar="R", key=Key(example="0.5", text="Of the parameters.", bounds=FRACTION)),
    )
    reduce_size: float | None = field(
        default=None,
        metadata=option(
            metavar="R",
            key=Key(
                example="0.5", note="bytes of the file", text="Of the bytes of the file.", bounds=FRACTION
            ),
        ),
    )
    reduce_latency: float | None = field(
        default=None,
        metadata=option(
            metavar="R",
            key=Key(
                example="0.5",
                note="time of a run, measured as in [bench]",
                text="Of the time of a run, measured as in ``[bench]``.",
                bounds=FRACTION,
            ),
        ),
    )
    reduce_channels: float | None = field(
        default=None,
        metadata=option(
            metavar="R", key=Key(example="0.5", text="Of the prunable channels.", bounds=FRACTION)
        ),
    )

    def reductions(self) -> dict[str, float]:
        """Return the fractions that were given, by the name of the cost.

        Raises:
            UsageError: One is no fraction.
        """
        given = {f.name.removeprefix("reduce_"): getattr(self, f.name) for f in fields(Reductions)}
        found = {cost: fraction for cost, fraction in given.items() if fraction is not None}
        for cost, fraction in found.items():
            check_fraction(cost, fraction)
        return found


def cost_label(cost: str) -> str:
    """Return the name of a cost in messages: ``MACs`` for ``macs``."""
    return {"macs": "MACs", "params": "parameters", "size": "file size"}.get(cost, cost)


def check_fraction(cost: str, fraction: float) -> None:
    """Refuse a reduction that is not between 0 and 1.

    Raises:
        UsageError: Naming the cost.
    """
    if not 0 < fraction < 1:
        percent = f": {fraction / 100:g} for {fraction:g} %" if 5 <= fraction < 100 else ""
        raise UsageError(
            f"a reduction of {fraction:g} of {cost_label(cost)} is no fraction",
            f"give one between 0 and 1{percent}",
        )
