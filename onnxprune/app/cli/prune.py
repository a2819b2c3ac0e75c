"""``prune``: zero the least useful channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnxprune.app.cli.figure import check_figure, draw, figure_option
from onnxprune.app.cli.options import (
    Reads,
    Writes,
    data_option,
    equal_option,
    glob_options,
    inexact_option,
    latency_options,
    model_argument,
    open_option,
    seed_option,
    size_options,
    threads_option,
    unchanged_option,
    unverified_option,
)
from onnxprune.app.cli.program import Facts, command

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune.decisions.plan import Analysis
    from onnxprune.search.files import PlanFile

T = TypeVar("T")


def render(facts: Facts) -> RenderableType:
    """Show what is removed from which group, and what the network costs then."""
    from rich.console import Group

    from onnxprune.app.figures import before_and_after, widths

    if facts["unchanged"]:
        return f"nothing to prune; the model was copied to {facts['output']}"
    costs = [
        (name, facts[f"{key}_baseline"], facts[key])
        for name, key in (("MACs", "macs"), ("parameters", "params"), ("channels", "channels"))
    ]
    parts: list[RenderableType] = [widths(facts["groups"]), "", before_and_after(costs), *_measured(facts)]
    parts += [f"\n{said}" for said in facts.get("corrected", ())]
    if facts.get("plan_out"):
        parts.append(f"\nplan: {facts['plan_out']}")
    if facts["output"]:
        parts.append(f"\nsparse model: {facts['output']}")
    return Group(*parts)


def _measured(facts: Facts) -> list[str]:
    """Say what the plan does to latency and quality, where that was measured."""
    from onnxprune.app.figures import shapes_text, timed_on

    said = []
    if "latency_ms" in facts:
        said.append(
            f"\nlatency {facts['latency_ms_baseline']:.3f} → {facts['latency_ms']:.3f} ms"
            f" (−{facts['latency_reduction']:.1%}; predicted {facts['latency_ms_predicted']:.3f} ms),"
            f" timed with {shapes_text(facts['latency_input_shapes'])}"
            f" on {timed_on(facts['latency_backend'], facts['latency_device'])}"
        )
        if facts["latency_missed"]:
            said.append("warning: less than was asked for; a larger reduction or --max-ratio goes further")
    if "drop" in facts:
        said.append(
            f"\n{facts['metric']} {facts['score_before']:.4g} → {facts['score']:.4g}, before any recovery"
        )
    if "recovery" in facts:
        from onnxprune.app.cli.recover import summary

        said.append("\n" + summary(facts["recovery"]))
    return said


def _limit(text: str) -> tuple[str, int]:
    """Read a number of channels for a group: ``stage1=16``."""
    name, _, count = text.rpartition("=")
    if not name or not count.isdecimal() or int(count) < 1:
        raise click.BadParameter(f"'{text}' is not of the form GROUP=N")
    return name, int(count)


def _reduction(text: str) -> tuple[str, float]:
    """Read a fraction of a cost: ``activation-memory=0.3``."""
    name, _, fraction = text.rpartition("=")
    try:
        return name, float(fraction)
    except ValueError as error:
        raise click.BadParameter(f"'{text}' is not of the form COST=R, such as flash=0.3") from error


def _limit_option(which: str, what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        f"--keep-at-{which}",
        multiple=True,
        type=_limit,
        metavar="GROUP=N",
        help=f"{what} channels that stay of the groups this glob names (repeatable).",
    )


def reduction_option(name: str, of: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option that says how much of a cost is to be removed."""
    return click.option(
        f"--reduce-{name}", type=float, metavar="R", help=f"Remove this fraction of the {of}."
    )


@command("prune", render, executes=True)
@model_argument()
@reduction_option("macs", "MACs")
@reduction_option("params", "parameters")
@reduction_option("size", "file's bytes")
@reduction_option("latency", "time one run takes, measured (see --latency-backend)")
@reduction_option("channels", "channels")
@click.option(
    "--reduce",
    multiple=True,
    type=_reduction,
    metavar="COST=R",
    help="Remove this fraction of another cost: that of a plugin, or module:callable (repeatable).",
)
@click.option(
    "--max-drop", type=float, metavar="D", help="Remove as much as costs no more than this of the metric."
)
@click.option("--analysis", type=Reads(), help="What `ana` found.")
@click.option(
    "--strategy",
    metavar="NAME",
    help="uniform, global, sensitivity or search; by default sensitivity with an analysis, else global.",
)
@click.option(
    "--criterion",
    type=Reads(),
    metavar="NAME",
    help="l1, l2, geometric-median, bn, lamp, random; activation, obs, taylor or fisher with --data; that"
    " of a plugin, or module:callable. By default that of the analysis; without one obs with --data, else"
    " l2.",
)
@data_option("Samples without labels to rank channels, repair and measure by")
@click.option(
    "--metric",
    type=Reads(),
    metavar="TEXT",
    help="What plans are measured by; by default that of the analysis, else kl.",
)
@click.option("--samples", type=click.IntRange(1), help="Only the first so many samples.")
@click.option("--batch-size", type=int, default=64, show_default=True, help="Samples a run.")
@click.option(
    "--evaluations", type=int, default=100, show_default=True, help="How many plans are measured on the data."
)
@click.option("--trials", type=Writes(path_type=Path), help="File that lets a search go on later.")
@click.option(
    "--recover",
    multiple=True,
    metavar="METHOD",
    help="Repair afterwards, without training: least-squares, bias, scale or batchnorm (repeatable), or none."
    " By default least-squares with --data.",
)
@click.option(
    "--round-to",
    type=int,
    help="Keep multiples of this, and groups that are no larger; by default of 8, of less in small groups.",
)
@click.option(
    "--max-ratio", type=float, default=0.9, show_default=True, help="Largest fraction of a group that may go."
)
@_limit_option("least", "Fewest")
@_limit_option("most", "Most")
@click.option("--limits", type=Reads(), help="JSON file with keep_at_least, keep_at_most, exclude, only.")
@click.option("--plan", type=Reads(), help="Apply this plan instead of making one.")
@click.option("--plan-out", type=Writes(), help="Write the plan to a file that can be edited.")
@click.option("--plan-only", is_flag=True, help="Write no model.")
@figure_option
@glob_options
@inexact_option
@unchanged_option
@unverified_option
@threads_option
@latency_options
@seed_option
@size_options
@open_option
@equal_option
@click.option(
    "--keep-rows",
    type=Reads(),
    metavar="FILE",
    help="Of the vocabulary, keep only the rows whose numbers this text file lists; alone or with a budget.",
)
@click.option("-o", "--output", type=Writes(), help="Where to write the sparse model.")
def prune(
    model: str,
    output: str | None,
    keep_rows: str | None,
    analysis: str | None,
    plan: str | None,
    plan_out: str | None,
    plan_only: bool,
    limits: str | None,
    figure: Path | None,
    shapes: Sequence[tuple[str, tuple[int, ...]]],
    dims: Sequence[tuple[str, int]],
    open_io: Sequence[str],
    unverified: bool,
    recover: Sequence[str],
    **options: Any,
) -> Facts:
    """Set the least useful channels to zero until all budgets are met.

    All reductions are fractions removed, of what the model cost before any pruning.
    """
    from onnxprune.decisions.channels.configuration import configurations, note_configurations
    from onnxprune.decisions.channels.planned import stored_plan
    from onnxprune.ir import load, opened
    from onnxprune.ir.output import write_text
    from onnxprune.passes import KeepRows, PassResult, Prune
    from onnxprune.search.files import PlanFile
    from onnxprune.support.progress import task
    from onnxprune.train.tuning.origin import placed

    inputs = [path for path in (model, analysis, plan, limits, keep_rows) if path]
    _check_options(output, plan_out, plan_only)
    check_figure(figure)
    rows = _read(keep_rows, _rows, "give a text file with a number a line")
    step = Prune(
        analysis=_read(analysis, _analysis, "give the file that `ana` wrote"),
        plan=_read(plan, _plan, "give a file that `prune --plan-out` wrote"),
        recover=_methods(recover),
        input_shapes=dict(shapes),
        dims=dict(dims),
        **_with_limits(options, limits),
    )
    only_rows = rows is not None and not step.reductions() and step.max_drop is None and step.plan is None
    with task("prune"):
        given = opened(load(model), open_io)
        note_configurations(given, configurations(given))
        result = KeepRows(rows)(given) if rows is not None else PassResult(given, False)
        result = result if only_rows else step(result)
    stored = stored_plan(result.model)
    if plan_out and stored:
        write_text(Path(plan_out), PlanFile.of(stored).to_json())
    written: Facts = {"model": model, "output": None, "plan_out": plan_out, "unchanged": not result.modified}
    if output and not plan_only:
        if result.modified:
            placed(result.model, model, output)
        shape_of = stored.input_shapes if stored else None
        written |= {"output": output} | _write(
            result.model, output, inputs, shapes=shape_of, data=options["data"], unverified=unverified
        )
    widths = [{"group": name, **width} for name, width in result.facts.get("groups", {}).items()]
    draw(figure, "widths", {"widths": widths})
    return {**written, "figure": str(figure) if figure else None, **result.facts}


def _methods(given: Sequence[str]) -> tuple[str, ...] | None:
    """Return the methods to repair with: the usual ones where none is named, none where that is said."""
    from onnxprune.errors import UsageError

    if "none" in given and len(given) > 1:
        raise UsageError("--recover none goes with no other method", "give either")
    return (() if "none" in given else tuple(given)) if given else None


def _write(model: Any, output: str, inputs: Sequence[str], **how: Any) -> Facts:
    from onnxprune.ir.output import write_model
    from onnxprune.support.progress import task

    with task("write and try"):
        return {"size_bytes": write_model(model, output, inputs=inputs, **how)}


def _check_options(output: str | None, plan_out: str | None, plan_only: bool) -> None:
    """Refuse to start where nothing would be written in the end."""
    from onnxprune.errors import UsageError

    if plan_only and not plan_out:
        raise UsageError("--plan-only writes no model and no plan", "say where the plan goes: --plan-out")
    if not plan_only and not output:
        raise UsageError("there is nowhere to write the sparse model", "say where: -o sparse.onnx")


def _with_limits(options: dict[str, Any], path: str | None) -> dict[str, Any]:
    """Put the limits of a file beside those of the command; the command's count where both name a group."""
    from onnxprune.errors import PlanError
    from onnxprune.support.forms import COUNT, TEXT, MappingOf, read_form

    known = {
        "keep_at_least?": MappingOf(COUNT),
        "keep_at_most?": MappingOf(COUNT),
        "exclude?": [TEXT],
        "only?": [TEXT],
    }
    hint = f"limits may have: {', '.join(key.removesuffix('?') for key in known)}"
    found = _read(path, lambda text, _: read_form(text, known), hint) or {}
    if unknown := [key for key in found if f"{key}?" not in known]:
        raise PlanError(f"{path} holds '{unknown[0]}', which is no limit", hint)
    merged = dict(options) | {"reduce": dict(options["reduce"])}
    for name in ("keep_at_least", "keep_at_most"):
        merged[name] = {str(k): int(v) for k, v in found.get(name, {}).items()} | dict(options[name])
    for name in ("exclude", "only"):
        merged[name] = (*found.get(name, ()), *options[name])
    return merged


def _read(path: str | None, parse: Callable[[str, str], T], hint: str) -> T | None:
    """Read a text file and make sense of it.

    Raises:
        PlanError: It cannot be read or is not what it should be.
    """
    from onnxprune.errors import PlanError

    if path is None:
        return None
    try:
        return parse(Path(path).read_text("utf-8"), path)
    except (OSError, ValueError) as error:
        raise PlanError(f"cannot read {path}: {error}", hint) from error


def _rows(text: str, _: str) -> list[int]:
    return sorted({int(word) for word in text.replace(",", " ").split()})


def _analysis(text: str, path: str) -> Analysis:
    from onnxprune.decisions.plan import Analysis

    return Analysis.from_json(text, path)


def _plan(text: str, path: str) -> PlanFile:
    from onnxprune.search.files import PlanFile

    return PlanFile.from_json(text, path)
