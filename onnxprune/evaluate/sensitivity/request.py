"""The request of `ana`, and the channels removed from each group at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxprune.analysis.groups.blocks import ResidualBlock
from onnxprune.analysis.groups.channels import Group, Indices, Prunable
from onnxprune.decisions.plan import Curve
from onnxprune.evaluate.data import DataSpec
from onnxprune.evaluate.metrics import MetricSpec, get_metric
from onnxprune.evaluate.sensitivity.adaptive_search import Search, Step
from onnxprune.evaluate.sensitivity.sample_stages import Scores


@dataclass(frozen=True)
class SensitivityRequest:
    """The options of a sensitivity analysis.

    Attributes:
        data: Samples to measure on.
        metric: The measure; ``None`` for the one that suits the data and the outputs.
        ratios: Fractions of a group to remove.
        exclude: Globs of groups to leave out.
        only: Globs of those to measure and no others.
        criterion: Criterion that ranks the channels within a group.
        batch_size: Samples a batch, where the model does not fix it.
        samples: Only the first so many samples.
        seed: Seed of everything that is drawn.
        input_shapes: Full shapes to analyse with, by input name.
        allow_inexact: Open axes that the network normalises over.
        search: Precision of the measured curves.
        repair: True if the layers that read removed channels are fitted anew before measuring.
        method: ``measured``, or ``fast``: estimated from one pass through the samples.
    """

    data: DataSpec
    metric: MetricSpec | None = None
    ratios: Sequence[float] = (0.5,)
    exclude: Sequence[str] = ()
    only: Sequence[str] = ()
    criterion: str = "obs"
    repair: bool = True
    batch_size: int = 64
    samples: int | None = None
    seed: int = 0
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    allow_inexact: bool = False
    search: Search = field(default_factory=Search)
    method: str = "measured"

    def settings(self) -> dict[str, Any]:
        """Return the options that decide the result, ready for JSON."""
        return {
            "metric": get_metric(self.metric or "top1").name,
            "ratios": sorted(set(self.ratios)),
            "exclude": list(self.exclude),
            "only": list(self.only),
            "criterion": self.criterion,
            "repair": self.repair and self.method == "measured",
            "batch_size": self.batch_size,
            "samples": self.samples,
            "seed": self.seed,
            "input_shapes": {name: list(shape) for name, shape in self.input_shapes.items()},
            "allow_inexact": self.allow_inexact,
            **(self.search.settings() if self.method == "measured" else {"method": self.method}),
        }


@dataclass(frozen=True, eq=False)
class RemovalSteps:
    """The channels removed from one group, step by step; a block is removed in one step.

    Attributes:
        group: The group, or the block.
        order: Its channels, those gone already first, then the least important.
        counts: Number of them that are gone at each step, ascending.
        gone: Number of channels that were gone before.
    """

    group: Prunable
    order: Indices
    counts: tuple[int, ...]
    gone: int

    @classmethod
    def of(cls, ratios: Sequence[float], group: Group, scores: Scores, gone: Sequence[int]) -> RemovalSteps:
        """Round the ratios to whole channels; one always stays.

        Args:
            ratios: Fractions of the group.
            group: The group.
            scores: Saliency of each of its channels.
            gone: Channels that are gone already.
        """
        ranking = scores.copy()
        ranking[list(gone)] = -1.0
        widths = (min(group.size - 1, round(ratio * group.size)) for ratio in ratios)
        counts = sorted({max(len(gone), n) for n in widths} - {0})
        return cls(group, np.argsort(ranking, kind="stable"), tuple(counts), len(gone))

    @classmethod
    def whole(cls, block: ResidualBlock, *, gone: bool) -> RemovalSteps:
        """Return the removal of a residual block.

        Args:
            block: The block.
            gone: True if it is removed already.
        """
        return cls(block, np.zeros(1, np.intp), (1,), int(gone))

    @property
    def steps(self) -> list[Step]:
        """The steps that remove further channels."""
        name, size = self.group.name, self.group.size
        return [Step(n / size, {name: self.order[:n].tolist()}) for n in self.counts if n > self.gone]

    def curve(self, baseline: float, measured: Curve) -> Curve:
        """Append the measured points to the steps that remove nothing more, if there are any."""
        idle = tuple(n / self.group.size for n in self.counts if n <= self.gone)
        return replace(
            measured,
            size=self.group.size,
            ratios=idle + measured.ratios,
            values=(baseline,) * len(idle) + measured.values,
            uncertainties=measured.uncertainties and (0.0,) * len(idle) + measured.uncertainties,
            samples=measured.samples and (0,) * len(idle) + measured.samples,
        )
