"""The reports of passes: one class a pass, one field for each key of ``--json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

Facts = Mapping[str, Any]
R = TypeVar("R", bound="Report")


def nullable() -> Mapping[str, bool]:
    """Return the metadata of a key that is there with the value ``null``, too."""
    return {"nullable": True}


@dataclass(frozen=True, kw_only=True)
class Report:
    """The report of a pass.

    Attributes:
        unchanged: True if there was nothing to do.
        corrected: Shapes that the model declared wrongly and that were corrected, in words.
        more: Keys that a pass of another package reports.
    """

    unchanged: bool | None = None
    corrected: Sequence[str] | None = None
    more: Facts = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return the keys that are there and their values, ready for JSON."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "more"}
        empty = {f.name for f in fields(self) if found.get(f.name) is None and not f.metadata.get("nullable")}
        return {name: value for name, value in found.items() if name not in empty} | dict(self.more)

    def with_keys(self: R, **keys: Any) -> R:
        """Return the report with other values of some keys."""
        return replace(self, **keys)


@dataclass(frozen=True, kw_only=True)
class CostReport(Report):
    """Costs before any pruning and after, and the fractions that are removed.

    Attributes:
        macs_before: Multiply-accumulates before any pruning.
        macs: Multiply-accumulates.
        macs_reduction: The fraction of them that is removed.
        params_before: Parameters before any pruning.
        params: Parameters.
        params_reduction: The fraction of them that is removed.
        channels_before: Prunable channels before any pruning.
        channels: Prunable channels.
        channels_reduction: The fraction of them that is removed.
        groups: The width of each group that loses channels, ``before`` and ``after``.
        blocks: The residual blocks that are removed, by name.
    """

    macs_before: int | None = None
    macs: int | None = None
    macs_reduction: float | None = None
    params_before: int | None = None
    params: int | None = None
    params_reduction: float | None = None
    channels_before: int | None = None
    channels: int | None = None
    channels_reduction: float | None = None
    groups: Mapping[str, Mapping[str, int]] | None = None
    blocks: Sequence[str] | None = None


def costs(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Any]:
    """Return the fields of a `CostReport` that are costs.

    Args:
        before: Costs before any pruning, by name.
        after: Costs, by name; one that has no other before is reported as unchanged.
    """
    found: dict[str, Any] = {}
    for name, value in after.items():
        whole = before.get(name, value)
        found |= {f"{name}_before": round(whole), name: value, f"{name}_reduction": 1 - value / max(whole, 1)}
    return found


@dataclass(frozen=True, kw_only=True)
class PruneReport(CostReport):
    """The report of `Prune` and `KeepRows`.

    Attributes:
        settings: The settings that decided the plan.
        uncounted: Nodes whose multiply-accumulates are not counted, with the reason.
        macs_assumed: The fraction of the multiply-accumulates whose sizes depend on the data.
        assumed_sizes: The sizes that stand for these.
        size_bytes_before: Bytes of the file before any pruning.
        dense_size_bytes: Bytes of the dense file, predicted.
        budgets: Costs of other packages, before and after, by name.
        latency_ms_before: Time of a run before any pruning, in milliseconds.
        latency_ms: Time of a run of the dense model, measured, in milliseconds.
        latency_ms_predicted: The same, predicted, in milliseconds.
        latency_reduction: The fraction of the time that is removed.
        latency_prediction_error: The relative error of the prediction.
        latency_input_shapes: The shapes of the inputs that were timed, by name.
        latency_backend: The runtime or device that was timed.
        latency_device: The device, in words.
        latency_measured: True if the time of the dense model was measured, not predicted by a table.
        latency_steps: The steps in which the device computes channels, by operator.
        latency_missed: True if the reduction of latency is smaller than the demanded one.
        warnings: Warnings, in words.
        metric: The metric that plans were measured by.
        score_before: Its value for the model that was given.
        score: Its value for the sparse model, before any recovery.
        drop: The drop from the score before to that score, in the metric's unit.
        reductions_tried: Pairs of a reduction of the multiply-accumulates and its drop.
        recovery: The report of the repair afterwards.
        rotation: The choice of the basis: ``kept`` if the rotated model was pruned, the repaired score of
            either plan, rotated axes, the largest relative error of the rotated model, or the reason against
            it.
        by_kind: The fractions of MACs and parameters that lower ranks, removed blocks and removed channels
            contribute, where layers are split or blocks removed.
        block_choice: The score of the plan with blocks and of that without, and the choice.
        rank_choice: The score of the plan with layers split and of that without, the choice, the layers and
            their ranks, or the reason against it.
    """

    settings: Facts | None = None
    uncounted: Sequence[Facts] | None = None
    macs_assumed: float | None = None
    assumed_sizes: Mapping[str, int] | None = None
    size_bytes_before: int | None = None
    dense_size_bytes: int | None = None
    budgets: Mapping[str, Mapping[str, float]] | None = None
    latency_ms_before: float | None = None
    latency_ms: float | None = None
    latency_ms_predicted: float | None = None
    latency_reduction: float | None = None
    latency_prediction_error: float | None = None
    latency_input_shapes: Mapping[str, Sequence[int]] | None = None
    latency_backend: str | None = None
    latency_device: str | None = None
    latency_measured: bool | None = None
    latency_steps: Mapping[str, int] | None = None
    latency_missed: bool | None = None
    warnings: Sequence[str] | None = None
    metric: str | None = None
    score_before: float | None = None
    score: float | None = None
    drop: float | None = None
    reductions_tried: Sequence[Sequence[float]] | None = None
    recovery: Facts | None = None
    rotation: Facts | None = None
    by_kind: Facts | None = None
    block_choice: Facts | None = None
    rank_choice: Facts | None = None


@dataclass(frozen=True, kw_only=True)
class RecoverReport(Report):
    """The report of `Recover`.

    Attributes:
        methods: Methods in the order of their use.
        recovery_s: Duration of the repair, in seconds.
        samples: Number of samples it looked at.
        synthetic: True if those were drawn.
        metric: The metric that was measured.
        score_before: Its value before the repair.
        score: Its value after it.
        outputs: The mean squared error of each output of the network, before and after.
        layers: The same for each repaired node, with its method.
        skipped: Nodes that were left alone, with method and reason.
    """

    methods: Sequence[str]
    recovery_s: float
    samples: int
    synthetic: bool
    metric: str | None = None
    score_before: float | None = None
    score: float | None = None
    outputs: Mapping[str, Mapping[str, float]]
    layers: Sequence[Facts]
    skipped: Sequence[Facts]


@dataclass(frozen=True, kw_only=True)
class SparsifyReport(Report):
    """The report of `Sparsify`.

    Attributes:
        pattern: The pattern, such as ``2:4``.
        score: Score that elements were chosen by.
        recover: Methods of the repair.
        weights: Each weight with its node, its elements and its zeros.
        elements: Elements of all these weights.
        zeros: Zeros among them.
        left: Weights that keep all elements, with node and reason.
        dead_channels: Channels that are zero, which `transform` would remove.
        samples: Number of samples the repair looked at.
        outputs: The mean squared error of each output of the network.
        skipped: Nodes that were left alone, with method and reason.
        sparsify_s: Duration of the pass, in seconds.
    """

    pattern: str | None = None
    score: str | None = None
    recover: Sequence[str] | None = None
    weights: Sequence[Facts] | None = None
    elements: int | None = None
    zeros: int | None = None
    left: Sequence[Facts] | None = None
    dead_channels: int | None = None
    samples: int | None = None
    outputs: Mapping[str, Mapping[str, float]] | None = None
    skipped: Sequence[Facts] | None = None
    sparsify_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class FinetuneReport(Report):
    """The report of `Finetune`.

    Attributes:
        losses: The mean loss of each epoch.
        steps: Steps taken.
        steps_failed: Steps that failed and were taken back.
        training_s: Duration of the training, in seconds, without validation.
        step_s: Median duration of a step, in seconds.
        engine: The engine that computed the steps.
        unfolded: Number of normalisations that were put back while training.
        metric: The metric on the held-back data.
        score_before: Its value for the model that was given.
        scores: Its value after each epoch.
        best_epoch: The epoch whose weights are kept, counted from 1; 0 for those that were given.
        best_score: Its value for those.
    """

    losses: Sequence[float]
    steps: int
    steps_failed: int
    training_s: float
    step_s: float
    engine: str
    unfolded: int
    metric: str | None = None
    score_before: float | None = None
    scores: Sequence[float] | None = None
    best_epoch: int | None = None
    best_score: float | None = None


@dataclass(frozen=True, kw_only=True)
class FactorizeReport(Report):
    """The report of `Factorize`.

    Attributes:
        exact: False: a lower rank is an approximation.
        layers: The layers that are split: node, operator, form, ranks, costs, and the squared error of the
            result divided by its variance.
        left: Layers that stay whole, with the reason.
        macs_before: Multiply-accumulates of the model that was given.
        macs: Multiply-accumulates.
        macs_reduction: The fraction of them that is removed.
        params_before: Parameters of the model that was given.
        params: Parameters.
        params_reduction: The fraction of them that is removed.
        samples: Number of samples the pass looked at.
        outputs: The mean squared error of each output of the network on the samples.
        skipped: Nodes that were not repaired, with method and reason.
        metric: Metric of the largest drop, where one is given.
        score_before: Its value for the model that was given.
        score: Its value for the result.
        drop: The drop from the one to the other, in the metric's unit.
        reductions_tried: Pairs of a reduction of the multiply-accumulates and its drop.
        max_rel_error: The largest relative error of the model against the same network with each weight
            replaced by the product of its factors.
        factorize_s: Duration of the pass, in seconds.
    """

    exact: bool | None = None
    layers: Sequence[Facts] | None = None
    left: Sequence[Facts] | None = None
    macs_before: int | None = None
    macs: int | None = None
    macs_reduction: float | None = None
    params_before: int | None = None
    params: int | None = None
    params_reduction: float | None = None
    samples: int | None = None
    outputs: Mapping[str, float] | None = None
    skipped: Sequence[Facts] | None = None
    metric: str | None = None
    score_before: float | None = None
    score: float | None = None
    drop: float | None = None
    reductions_tried: Sequence[Sequence[float]] | None = None
    max_rel_error: float | None = None
    factorize_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class RotateReport(Report):
    """The report of `Rotate`.

    Attributes:
        axes: The axes in new bases: group, size, parts, symmetry, condition of the map, and its uses.
        absorbed: Normalisations that were absorbed by their neighbours.
        refused: Groups that keep their basis, with the reason.
        max_rel_error: The largest relative error of the rotated model.
        rotation_s: Duration of the pass, in seconds.
    """

    axes: Sequence[Facts] | None = None
    absorbed: Sequence[str] | None = None
    refused: Sequence[Facts] | None = None
    max_rel_error: float | None = None
    rotation_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class SeparateReport(Report):
    """The report of `Separate`.

    Attributes:
        products: The matrix products that were split: node, operator, number of parts.
        outputs: The outputs whose width was opened.
        max_rel_error: The largest relative error of the separated model.
    """

    products: Sequence[Facts] | None = None
    outputs: Sequence[Facts] | None = None
    max_rel_error: float | None = None


@dataclass(frozen=True, kw_only=True)
class TransformReport(CostReport):
    """The report of `Transform`: costs, the comparison (see `onnxprune.verify`), the certificate.

    Attributes:
        verdict: ``agree``, ``differ`` or ``not shown``.
        equal: True if the models are shown to compute the same on the inputs that were tried.
        shown: True if any input showed whether they do.
        exact: True if they have to agree.
        max_rel_error: The largest relative error of all outputs.
        max_abs_error: The largest absolute error of all outputs.
        allowed_rel_error: The tolerance of the output that comes closest to it.
        runs: On how many inputs both were run.
        sizes: The shapes of these inputs, by name.
        outputs: The comparison of each output.
        notes: Changes made to both before the comparison, and parts that could not be compared.
        reason: Why they differ, or why nothing is shown.
        noise_rel_error: The largest relative error that rounding alone makes.
        rows: The rows of a vocabulary that are left.
        certificate: The certificate for all inputs.
        pattern: The pattern that the weights were made to follow, and the checks of it.
        unfused: Nodes that runtimes no longer fuse, in words.
        configurations: Files beside the model that name widths, rewritten.
        left: Constant channels that stay, with node, operator and reason.
    """

    verdict: str | None = None
    equal: bool | None = None
    shown: bool | None = None
    exact: bool | None = None
    max_rel_error: float | None = None
    max_abs_error: float | None = None
    allowed_rel_error: float | None = None
    runs: int | None = None
    sizes: Sequence[Mapping[str, Sequence[int]]] | None = None
    outputs: Mapping[str, Facts] | None = None
    notes: Sequence[str] | None = None
    reason: str | None = None
    noise_rel_error: float | None = None
    rows: Sequence[int] | None = None
    certificate: Facts | None = None
    pattern: Facts | None = None
    unfused: Sequence[str] | None = None
    configurations: Mapping[str, Facts] | None = None
    left: Sequence[Facts] | None = None


@dataclass(frozen=True, kw_only=True)
class AnaReport(Report):
    """The report of `Ana`.

    Attributes:
        metric: The metric.
        higher_is_better: True if larger values are better.
        baseline: Its value for the model as it is.
        groups: The curve of each group: size, ratios, values, uncertainties, drops, work.
        blocks: The value and the drop without each residual block, and its work.
        most_fragile: The groups that lose most at one half.
        samples: Number of samples that were looked at; ``None`` where their number is not known.
        method: ``measured`` or ``fast``.
        evaluations: Number of points that were measured.
        estimated_by: The estimate that ``fast`` made.
        no_gradients: The reason for an estimate without gradients.
        estimate_duration_s: Duration of the estimate, in seconds.
        rank_correlation: Rank correlation of the estimate with the measured order of the groups.
        rank_correlation_points: Rank correlation over all points.
        duration_s: Duration of the whole analysis, in seconds.
    """

    metric: str
    higher_is_better: bool
    baseline: float
    groups: Mapping[str, Facts]
    blocks: Mapping[str, Facts]
    most_fragile: Sequence[str]
    samples: int | None = field(metadata=nullable())
    method: str
    evaluations: int | None = None
    estimated_by: str | None = None
    no_gradients: str | None = None
    estimate_duration_s: float | None = None
    rank_correlation: float | None = None
    rank_correlation_points: float | None = None
    duration_s: float
