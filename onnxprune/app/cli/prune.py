"""``prune``: zero the least useful channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnxprune.app.cli.command_options import (
    Reads,
    Writes,
    model_argument,
    unverified_option,
)
from onnxprune.app.cli.conventions import Facts, command
from onnxprune.app.cli.figure import check_figure, draw, figure_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune.decisions.plan import Analysis
    from onnxprune.passes import KeepRows
    from onnxprune.search.plan_files import PlanFile

T = TypeVar("T")


def render(facts: Facts) -> RenderableType:
    """Show the removed channels of each group, and the costs of the network then."""
    from rich.console import Group

    from onnxprune.app.figures import before_and_after, uncounted_texts, widths

    if facts["unchanged"]:
        return f"nothing to prune; the model was copied to {facts['output']}"
    parts: list[RenderableType] = [
        widths(facts["groups"], facts.get("blocks", ())),
        "",
        before_and_after(_costs(facts)),
        *_measured(facts),
    ]
    parts += [f"\n{text}" for text in (*uncounted_texts(facts), *facts.get("corrected", ()))]
    if facts.get("plan_out"):
        parts.append(f"\nplan: {facts['plan_out']}")
    if facts["output"]:
        parts.append(f"\nsparse model: {facts['output']}")
    return Group(*parts)


def _costs(facts: Facts) -> list[tuple[str, float, float]]:
    """Return the costs before and after: the usual ones, and those that had a budget."""
    usual = (("MACs", "macs"), ("parameters", "params"), ("channels", "channels"))
    costs = [(name, facts[f"{key}_before"], facts[key]) for name, key in usual]
    if "reduce_size" in facts["settings"] and "dense_size_bytes" in facts:
        costs.append(("file", facts["size_bytes_before"], facts["dense_size_bytes"]))
    for name, cost in facts.get("budgets", {}).items():
        costs.append((name.rpartition(":")[2].replace("_", " "), cost["before"], cost["predicted"]))
    return costs


def _measured(facts: Facts) -> list[str]:
    """State the plan's effect on latency and quality, where that was measured."""
    from onnxprune.app.figures import shapes_text, timed_on

    lines = []
    if "latency_ms" in facts:
        predicted = f"predicted {facts['latency_ms_predicted']:.3f} ms"
        how = predicted if facts["latency_measured"] else "predicted by the table, not measured"
        lines.append(
            f"\nlatency {facts['latency_ms_before']:.3f} → {facts['latency_ms']:.3f} ms"
            f" (−{facts['latency_reduction']:.1%}; {how}),"
            f" timed with {shapes_text(facts['latency_input_shapes'])}"
            f" on {timed_on(facts['latency_backend'], facts['latency_device'])}"
        )
        lines += [f"warning: {warning}" for warning in facts.get("warnings", ())]
    if "by_kind" in facts:
        named = {"ranks": "lower ranks", "blocks": f"{len(facts.get('blocks', ()))} blocks"}
        parts = [f"−{part['macs']:.1%} by {named.get(kind, kind)}" for kind, part in facts["by_kind"].items()]
        lines.append(f"\nMACs {', '.join(parts)}")
    if "drop" in facts:
        lines.append(
            f"\n{facts['metric']} {facts['score_before']:.4g} → {facts['score']:.4g}, before any recovery"
        )
    if "repairable" in facts:
        lines.append("\nnot repaired: that takes samples, give some with --data")
    metric = facts.get("recovery", {}).get("metric") or "score"
    lines += _rotated(facts.get("rotation", {}), metric) + _split(facts.get("rank_choice", {}), metric)
    if "recovery" in facts:
        from onnxprune.app.cli.recover import summary

        lines.append("\n" + summary(facts["recovery"]))
    return lines


def _rotated(found: Facts, metric: str) -> list[str]:
    """State which basis was pruned, and by how much its plan is the better."""
    if not found.get("kept"):
        return [f"\nnot rotated: {found['reason']}"] if "reason" in found else []
    error = found["max_rel_error"]
    shown = "" if error is None else f", largest relative error to the original {error:.1e}"
    count = len(found["axes"])
    text = f"\npruned in another basis: {count} {'axis' if count == 1 else 'axes'} rotated{shown}"
    if "score_unrotated" in found:
        scores = (
            f"{found['score_rotated']:.4g} rotated, {found['score_unrotated']:.4g} in the basis of the model"
        )
        text += f"\n{metric} after repair: {scores}"
    return [text]


def _split(found: Facts, metric: str) -> list[str]:
    """State which layers are split, and by how much that plan is the better."""
    if not found:
        return []
    if "reason" in found:
        return [f"\nno layer split: {found['reason']}"]
    scores = [f"{t['score']:.4g}" if "score" in t else t["reason"] for t in found["tried"]]
    if not found["kept"]:
        ends = f"{found['score_without']:.4g}, with ranks {', '.join(scores)}"
        return [f"\nno layer split: {metric} after repair {ends}"]
    rows = [f"{row['node']} {row['form']} {' × '.join(map(str, row['ranks']))}" for row in found["layers"]]
    text = f"{metric} after repair: {found['score_with']:.4g}, without ranks {found['score_without']:.4g}"
    return [f"\n{len(rows)} layers split: {', '.join(rows)}\n{text}"]


@command("prune", render, executes=True, fields_of="onnxprune.passes.prune:Prune")
@model_argument()
@click.option("--limits", type=Reads(), help="JSON file with keep_at_least, keep_at_most, exclude, only.")
@click.option("--plan-out", type=Writes(), help="Write the plan to a file that can be edited.")
@click.option("--plan-only", is_flag=True, help="Write no model.")
@figure_option
@unverified_option
@click.option(
    "--keep-rows",
    type=Reads(),
    metavar="FILE",
    help="Of the vocabulary, keep only the rows whose numbers this text file lists; alone or with a budget.",
)
@click.option(
    "--keep-rows-most",
    type=click.IntRange(1),
    metavar="N",
    help="Likewise: N rows, those that --data picks most often; listed rows and special tokens among them.",
)
@click.option(
    "--keep-rows-min-count",
    type=click.IntRange(1),
    metavar="N",
    help="Likewise: the rows that --data picks at least N times, listed rows and special tokens.",
)
@click.option(
    "--rotated-output",
    type=Writes(),
    help="File to write the rotated or split form to that is pruned, the original of later steps.",
)
@click.option("-o", "--output", type=Writes(), help="File to write the sparse model to.")
def prune(
    model: str,
    output: str | None,
    keep_rows: str | None,
    keep_rows_most: int | None,
    keep_rows_min_count: int | None,
    rotated_output: str | None,
    analysis: str | None,
    plan: str | None,
    plan_out: str | None,
    plan_only: bool,
    limits: str | None,
    figure: Path | None,
    unverified: bool,
    recover: Sequence[str] | None,
    **options: Any,
) -> Facts:
    """Set the least useful channels to zero until all budgets are met.

    All reductions are fractions removed, of the costs of the model before any pruning.
    """
    from onnxprune.decisions.channels.configuration import configurations, note_configurations
    from onnxprune.decisions.channels.planned import stored_plan
    from onnxprune.ir import load, opened
    from onnxprune.ir.output import write_text
    from onnxprune.passes import PassResult, Prune
    from onnxprune.search.plan_files import PlanFile
    from onnxprune.support.progress import task
    from onnxprune.train.tuning.original_statistics import placed

    inputs = [path for path in (model, analysis, plan, limits, keep_rows) if path]
    _check_options(output, plan_out, plan_only)
    check_figure(figure)
    step = Prune(
        analysis=_read(analysis, _analysis, "give the file that `ana` wrote"),
        plan=_read(plan, _plan, "give a file that `prune --plan-out` wrote"),
        recover=methods_of(recover),
        **_with_limits(options, limits),
    )
    few = _keep_rows(keep_rows, keep_rows_most, keep_rows_min_count, options)
    only_rows = few is not None and not step.reductions() and step.max_drop is None and step.plan is None
    with task("prune"):
        given = opened(load(model, mapped=True), step.open_io)
        note_configurations(given, configurations(given))
        result = few(given) if few is not None else PassResult(given, False)
        result = result if only_rows else step(result)
    stored = stored_plan(result.model)
    if plan_out and stored:
        write_text(Path(plan_out), PlanFile.of(stored, result.model.metadata()).to_json())
    written: Facts = {"model": model, "output": None, "plan_out": plan_out, "unchanged": not result.modified}
    shape_of = stored.input_shapes if stored else None
    if rotated_output and result.original is not None:
        how: Facts = {"shapes": shape_of, "data": options["data"], "unverified": unverified}
        _write(result.original, rotated_output, inputs, **how)
        written["rotated_output"] = rotated_output
    if output and not plan_only:
        if result.modified:
            placed(result.model, written.get("rotated_output", model), output)
        written |= {"output": output} | _write(
            result.model, output, inputs, shapes=shape_of, data=options["data"], unverified=unverified
        )
    widths = [{"group": name, **width} for name, width in result.facts.get("groups", {}).items()]
    draw(figure, "widths", {"widths": widths})
    bare = options["data"] is None and recover is None and plan is None and result.modified and not only_rows
    written |= {"repairable": True} if bare else {}
    return {**written, "figure": str(figure) if figure else None, **result.facts}


def _keep_rows(
    listed: str | None, most: int | None, min_count: int | None, options: Facts
) -> KeepRows | None:
    """Return the step that keeps rows of a vocabulary, ``None`` where none is asked for."""
    from onnxprune.passes import KeepRows
    from onnxprune.passes.keep_rows import read_rows

    if listed is None and most is None and min_count is None:
        return None
    how = {name: options[name] for name in ("data", "samples", "batch_size")}
    rows = read_rows(Path(listed)) if listed is not None else ()
    return KeepRows(rows, most=most, min_count=min_count, **how)


def methods_of(given: Sequence[str] | None) -> Any:
    """Return the methods to repair with: ``None`` for the usual ones, nothing for the name ``none``."""
    from onnxprune.errors import UsageError

    if given is None:
        return None
    if "none" in given and len(given) > 1:
        raise UsageError("--recover none goes with no other method", "give either")
    return () if "none" in given else given


def _write(model: Any, output: str, inputs: Sequence[str], **how: Any) -> Facts:
    from onnxprune.ir.output import write_model
    from onnxprune.support.progress import task

    with task("write and try"):
        return {"size_bytes": write_model(model, output, inputs=inputs, **how)}


def _check_options(output: str | None, plan_out: str | None, plan_only: bool) -> None:
    """Refuse to start where nothing would be written in the end."""
    from onnxprune.errors import UsageError

    if plan_only and not plan_out:
        raise UsageError("no file for the plan is named", "name one: --plan-out plan.json")
    if not plan_only and not output:
        raise UsageError("no file for the sparse model is named", "name one: -o sparse.onnx")


def _with_limits(options: dict[str, Any], path: str | None) -> dict[str, Any]:
    """Put the limits of a file beside those of the command; the command's count where both name a group."""
    from onnxprune.errors import PlanError
    from onnxprune.support.json_forms import COUNT, TEXT, MappingOf, read_form

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
    merged = dict(options)
    for name in ("keep_at_least", "keep_at_most"):
        merged[name] = {str(k): int(v) for k, v in found.get(name, {}).items()} | dict(options[name])
    for name in ("exclude", "only"):
        merged[name] = (*found.get(name, ()), *options[name])
    return merged


def _read(path: str | None, parse: Callable[[str, str], T], hint: str) -> T | None:
    """Read a text file and parse it.

    Raises:
        PlanError: It cannot be read or parsed.
    """
    from onnxprune.errors import PlanError

    if path is None:
        return None
    try:
        return parse(Path(path).read_text("utf-8"), path)
    except (OSError, ValueError) as error:
        raise PlanError(f"cannot read {path}: {error}", hint) from error


def _analysis(text: str, path: str) -> Analysis:
    from onnxprune.decisions.plan import Analysis

    return Analysis.from_json(text, path)


def _plan(text: str, path: str) -> PlanFile:
    from onnxprune.search.plan_files import PlanFile

    return PlanFile.from_json(text, path)
