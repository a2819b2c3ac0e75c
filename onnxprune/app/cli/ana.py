"""``ana``: how much each group of channels can lose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.app.cli.command_options import (
    model_argument,
    output_option,
)
from onnxprune.app.cli.conventions import Facts, command, is_verbose
from onnxprune.app.cli.figure import check_figure, draw, figure_option

if TYPE_CHECKING:
    from rich.console import RenderableType

_BARS = "▁▂▃▄▅▆▇█"


def render(facts: Facts) -> RenderableType:
    """Show every group's curve, the most fragile groups first; verbosely also its points."""
    from rich.console import Group

    from onnxprune.app.figures import count, table

    curves = sorted(facts["groups"].items(), key=lambda pair: -pair[1]["drop_at_half"])
    worst = max((drop for _, curve in curves for drop in curve["drops"]), default=0.0)
    rows = [
        (
            name,
            curve["size"],
            count(curve["macs"]),
            f"{curve['drop_at_half']:.4g}",
            _sparkline(curve, worst),
            *(["  ".join(f"{r:.0%}: {v:.4g}{e}" for r, v, e in _points(curve))] if facts["verbose"] else []),
        )
        for name, curve in curves
    ]
    points = (f"{facts['metric']} with this share removed",) if facts["verbose"] else ()
    columns = ("…group", ">channels", ">MACs", ">drop at half", "drop, 10 to 90 % removed", *points)
    better = "more" if facts["higher_is_better"] else "less"
    samples = "" if facts["samples"] is None else f" on {facts['samples']} samples"
    start = (
        f"{facts['metric']} of the model as it is: {facts['baseline']:.4g}{samples} ({better} is better)\n"
    )
    end = [_most_fragile(facts), *_estimated(facts), f"analysis: {facts['output']}"]
    return Group(start, table(columns, rows), *_blocks(facts), *(f"\n{line}" for line in end))


def _blocks(facts: Facts) -> list[RenderableType]:
    """List the residual blocks by the loss without each, the least loss first."""
    from onnxprune.app.figures import count, table

    rows = [
        (name, count(block["macs"]), f"{block['drop']:.4g}", f"{block['value']:.4g}")
        for name, block in sorted(facts["blocks"].items(), key=lambda pair: pair[1]["drop"])
    ]
    columns = ("…residual block", ">MACs", ">drop without it", f">{facts['metric']}")
    return ["", table(columns, rows)] if rows else []


def _estimated(facts: Facts) -> list[str]:
    """Return sentences on the method of an estimate, and on its rank correlation."""
    if facts["method"] == "measured":
        return []
    by = "gradients" if facts["estimated_by"] == "fisher" else "the activations that weights read"
    lines = [f"estimated by {by} in {facts['estimate_duration_s']:.1f} s"]
    if facts["no_gradients"]:
        lines.append(f"not by gradients: {facts['no_gradients']}")
    if "rank_correlation" in facts:
        lines.append(
            f"rank correlation with the measured curves: {facts['rank_correlation']:.2f} of the groups,"
            f" {facts['rank_correlation_points']:.2f} of all points"
        )
    return lines


def _points(curve: Facts) -> list[tuple[float, float, str]]:
    errors = [f" ± {e:.1g}" if e else "" for e in curve["uncertainties"]] or [""] * len(curve["values"])
    return list(zip(curve["ratios"], curve["values"], errors, strict=True))


def _sparkline(curve: Facts, worst: float) -> str:
    """Draw a curve as bars, one for each tenth removed; the highest is the worst drop of all groups."""
    import numpy as np

    drops = np.interp([k / 10 for k in range(1, 10)], [0.0, *curve["ratios"]], [0.0, *curve["drops"]])
    shares = [min(float(d) / worst, 1.0) if d > 0 and np.isfinite(d) else float(d > 0) for d in drops]
    return "".join(_BARS[round(share * (len(_BARS) - 1))] for share in shares)


def _most_fragile(facts: Facts) -> str:
    """Name the groups that lose most at one half, with their shares of the MACs."""
    named = [(name, facts["groups"][name]) for name in facts["most_fragile"][:3]]
    lines = [
        f"{name} (half of it costs {c['drop_at_half']:.3g} and is in {c['macs_share']:.0%} of the MACs)"
        for name, c in named
    ]
    return f"most fragile: {', '.join(lines)}"


@command("ana", render, executes=True, fields_of="onnxprune.passes.ana:Ana")
@model_argument()
@figure_option
@output_option("the analysis")
def ana(model: str, output: str, figure: Path | None, against: str | None, **options: Any) -> Facts:
    """Measure how a metric falls as each group of channels shrinks.

    The output file is an analysis at any time: an interrupted measurement goes on with --resume.
    """
    from onnxprune.evaluate.sensitivity.ledger import read_analysis
    from onnxprune.ir import load
    from onnxprune.passes.ana import Ana

    check_figure(figure)
    measured = read_analysis(against) if against else None
    step = Ana(file=Path(output), against=measured, **options)
    facts: Facts = {"model": model, "output": output, "figure": str(figure) if figure else None}
    facts |= {"verbose": is_verbose()}
    facts |= step(load(model)).facts
    draw(figure, "sensitivity", {"curves": facts, "widths": []})
    return facts
