"""Plans and analyses as data: a plan is stored in the sparse model, an analysis in its own file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxprune.errors import PlanError
from onnxprune.support.json_forms import (
    ANYTHING,
    COUNT,
    FLAG,
    NUMBER,
    REAL,
    TEXT,
    MappingOf,
    Nullable,
    check_form,
    read_form,
)

PLAN_KEY = "onnxprune.plan"
FORMAT = 1
_PLAN = {
    "removed": MappingOf([COUNT]),
    "sizes": MappingOf(COUNT),
    "baseline": MappingOf(NUMBER),
    "settings": MappingOf(ANYTHING),
    "allow_inexact": FLAG,
    "input_shapes": MappingOf([Nullable(COUNT)]),
    "within?": MappingOf([[COUNT]]),
}
_CURVE = {"size": COUNT, "ratios": [NUMBER], "values": [REAL], "uncertainties?": [REAL], "samples?": [COUNT]}
_ANALYSIS = {
    "digest": TEXT,
    "metric": TEXT,
    "higher_is_better": FLAG,
    "baseline": REAL,
    "curves": MappingOf(_CURVE),
    "blocks?": MappingOf(_CURVE),
    "settings": MappingOf(ANYTHING),
}
_MADE_BY = "`prune` writes plans into models, `ana` writes analyses: run it again with this version"


@dataclass(frozen=True)
class Plan:
    """The channels removed from a sparse model.

    Attributes:
        removed: Removed channels by group name, ascending; of a group in ``within`` those of the first row.
        sizes: Size of each of those groups before pruning.
        baseline: Figures of the model before any pruning: ``macs``, ``params``, ``channels``.
        settings: Settings the plan was made with, for the record.
        allow_inexact: True if axes that are normalised over were open.
        input_shapes: Input shapes the analysis was given, by input name, -1 for an axis that was left open.
        within: Groups that lose other channels in each element of their outer factors (in each group of
            a grouped convolution, in each head): the removed channels row by row, by group name.
    """

    removed: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]
    baseline: Mapping[str, float]
    settings: Mapping[str, Any] = field(default_factory=dict)
    allow_inexact: bool = False
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    within: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)

    @classmethod
    def of_nothing(cls, baseline: Mapping[str, float]) -> Plan:
        """Return the plan that removes nothing, with the costs that later reductions count from."""
        return cls({}, {}, dict(baseline))

    def to_json(self) -> str:
        """Return the plan as one line of JSON."""
        shapes = {n: [s if s > 0 else None for s in shape] for n, shape in self.input_shapes.items()}
        content = {"format": FORMAT, **asdict(self), "input_shapes": shapes}
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan back.

        Raises:
            PlanError: The text is no plan of a format this version reads.
        """
        content = _read(text, "the plan")
        try:
            check_form(content, _PLAN)
            plan = cls(
                removed={str(n): tuple(int(i) for i in r) for n, r in content["removed"].items()},
                sizes={str(n): int(s) for n, s in content["sizes"].items()},
                baseline={str(n): float(v) for n, v in content["baseline"].items()},
                settings=dict(content["settings"]),
                allow_inexact=bool(content["allow_inexact"]),
                input_shapes={
                    str(n): tuple(-1 if s is None else s for s in shape)
                    for n, shape in content["input_shapes"].items()
                },
                within={
                    str(n): tuple(tuple(int(i) for i in row) for row in rows)
                    for n, rows in content.get("within", {}).items()
                },
            )
            plan.check()
        except ValueError as error:
            raise PlanError(f"the plan is damaged: {error}", "prune the original model again") from error
        return plan

    def check(self) -> None:
        """Refuse a plan that contradicts itself.

        Raises:
            ValueError: A channel, a size or a figure is missing or impossible.
        """
        if missing := {"macs", "params", "channels"} - set(self.baseline):
            raise ValueError(f"the baseline lacks {', '.join(sorted(missing))}")
        if negative := [name for name, value in self.baseline.items() if value < 0]:
            raise ValueError(f"{negative[0]} of the baseline is below zero")
        if empty := [name for name, shape in self.input_shapes.items() if not all(shape)]:
            raise ValueError(f"the shape of input '{empty[0]}' has an empty axis")
        for name, gone in self.removed.items():
            size = self.sizes.get(name, 0)
            if any(not 0 <= channel < size for channel in gone):
                raise ValueError(f"group '{name}' of {size} channels cannot lose {list(gone)}")
        for name, rows in self.within.items():
            gone = self.removed.get(name, ())
            if not rows or sorted(rows[0]) != sorted(gone):
                raise ValueError(f"group '{name}' loses {list(gone)}, but its first row says otherwise")
            known = set(range(self.sizes[name]))
            if any(len(set(row)) != len(gone) or not set(row) <= known for row in rows):
                raise ValueError(f"the rows of group '{name}' are not of {len(gone)} channels each")


@dataclass(frozen=True)
class Curve:
    """A metric as a function of the channels removed from one group.

    Attributes:
        size: Channels in the group.
        ratios: Fractions removed, ascending.
        values: The metric at each of them.
        uncertainties: Half the width of a confidence interval around each value; empty where all samples were
            measured.
        samples: Number of samples each value was measured on; empty likewise.
    """

    size: int
    ratios: tuple[float, ...]
    values: tuple[float, ...]
    uncertainties: tuple[float, ...] = ()
    samples: tuple[int, ...] = ()

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Curve:
        """Make a curve of the content of a file; files of earlier versions have no uncertainties."""
        return cls(
            size=int(content["size"]),
            ratios=tuple(map(float, content["ratios"])),
            values=tuple(map(float, content["values"])),
            uncertainties=tuple(map(float, content.get("uncertainties", ()))),
            samples=tuple(map(int, content.get("samples", ()))),
        )


@dataclass(frozen=True)
class Analysis:
    """The sensitivity of each group.

    Attributes:
        digest: Identifies model, data and options.
        metric: Name of the metric.
        higher_is_better: Its direction.
        baseline: Its value before pruning.
        curves: One curve a group, by group name.
        settings: Options of the run, for the record.
        blocks: One curve a residual block, by name; its only point is the network without the block.
    """

    digest: str
    metric: str
    higher_is_better: bool
    baseline: float
    curves: Mapping[str, Curve]
    settings: Mapping[str, Any] = field(default_factory=dict)
    blocks: Mapping[str, Curve] = field(default_factory=dict)

    def drop(self, value: float) -> float:
        """Return the loss of a value against the baseline (never negative)."""
        return max(0.0, self.baseline - value if self.higher_is_better else value - self.baseline)

    def to_json(self) -> str:
        """Return the analysis as readable JSON."""
        content = {"format": FORMAT, **asdict(self)}
        if not self.blocks:
            del content["blocks"]
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str = "the analysis") -> Analysis:
        """Read an analysis back.

        Raises:
            PlanError: The text is no analysis of a format this version reads.
        """
        content = _read(text, name)
        try:
            check_form(content, _ANALYSIS)
            for group, curve in {**content["curves"], **content.get("blocks", {})}.items():
                _check_curve(group, curve)
            curves = {str(n): Curve.of(c) for n, c in content["curves"].items()}
            return cls(
                digest=str(content["digest"]),
                metric=str(content["metric"]),
                higher_is_better=bool(content["higher_is_better"]),
                baseline=float(content["baseline"]),
                curves=curves,
                settings=dict(content["settings"]),
                blocks={str(n): Curve.of(c) for n, c in content.get("blocks", {}).items()},
            )
        except ValueError as error:
            raise PlanError(f"{name} is damaged: {error}", "run `ana` again") from error


def _check_curve(group: str, curve: Mapping[str, Any]) -> None:
    """Refuse a curve of another number of values than ratios, or whose ratios do not rise from 0 to 1."""
    ratios = curve["ratios"]
    if len(curve["values"]) != len(ratios):
        raise ValueError(f"group '{group}' has {len(curve['values'])} values at {len(ratios)} ratios")
    if any(a >= b for a, b in itertools.pairwise(ratios)) or any(not 0 <= r <= 1 for r in ratios):
        raise ValueError(f"the ratios of group '{group}' do not rise from 0 to 1")
    for name in ("uncertainties", "samples"):
        if curve.get(name) and len(curve[name]) != len(ratios):
            raise ValueError(f"group '{group}' has {len(curve[name])} {name} at {len(ratios)} ratios")


def _read(text: str, name: str) -> dict[str, Any]:
    try:
        content = read_form(text, ANYTHING)
    except ValueError as error:
        raise PlanError(f"{name} is not JSON: {error}", _MADE_BY) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise PlanError(f"{name} is not of a format this version reads", _MADE_BY)
    return content
