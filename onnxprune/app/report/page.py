"""Facts and figures put into a template."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxprune.app.figures import count, duration, file_size, reduction
from onnxprune.errors import UsageError
from onnxprune.support.wording import clean, in_markdown

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

FORMATS = ("html", "md")
MOST_CURVES = 24
"""Number of sensitivity curves drawn: those of the most sensitive groups. A table has all groups."""
_SHARES = ("top1", "top5", "agreement")


def render(facts: Mapping[str, Any], form: str = "html", against: Mapping[str, Any] | None = None) -> str:
    """Return a report as text.

    Args:
        facts: Facts that `onnxprune.app.report.collect` found.
        form: ``html`` or ``md``.
        against: Facts of another run, to be set beside the first.

    Raises:
        UsageError: jinja2 is not installed, or the format is unknown.
    """
    if form not in FORMATS:
        raise UsageError(f"there is no format '{form}'", f"choose from: {', '.join(FORMATS)}")
    facts, against = clean(facts), clean(against)
    environment, score = _environment(form), score_format(facts["metric"])
    drawn = _figures(facts, score) if form == "html" else {}
    template = environment.get_template(f"report.{form}")
    tables = {"rows": comparison(facts, score), "rivals": rivals(facts, against), "blocked": blocked(facts)}
    page = template.render(facts=facts, score=score, **tables, **drawn)
    return page.strip() + "\n"


def figures(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the page's figures as SVG files of their own, by file name.

    Args:
        facts: Facts that `onnxprune.app.report.collect` found.
    """
    facts = clean(facts)
    style = _environment().get_template("figures.css").render()
    drawn = _figures(facts, score_format(facts["metric"]))
    named = {f"{kind}-{title}": svg for kind, found in drawn.items() for title, svg in found}
    return {f"{_file_name(name)}.svg": standalone(svg, style) for name, svg in named.items()}


def standalone(svg: str, style: str) -> str:
    """Make a file of a figure: with its own colours, and the namespace of its tags."""
    start, _, rest = svg.partition(">")
    return f'{start} xmlns="http://www.w3.org/2000/svg"><style>{style}</style>{rest}\n'


def comparison(facts: Mapping[str, Any], score: Callable[[float], str]) -> list[dict[str, str]]:
    """Return the rows of the table of before and after, as text."""
    before, after = facts["original"], facts["result"]
    if after is None:
        return []
    names = {
        "score": (facts["metric"], score),
        "macs": ("multiply-accumulates", count),
        "params": ("parameters", count),
        "size_bytes": ("file size", file_size),
        "latency_ms": ("latency", milliseconds),
    }
    return [
        {
            "name": title,
            "before": show(before[key]),
            "after": show(after[key]),
            "change": score_change(facts["metric"], before[key], after[key])
            if key == "score"
            else reduction(before[key], after[key]),
        }
        for key, (title, show) in names.items()
        if key in before and key in after
    ]


def rivals(facts: Mapping[str, Any], against: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the costs of a similar result by other ways: one row each, this run's first."""
    runs = {"in iterations": facts, "another run": against or {}}
    rows = [
        {"name": name, "rounds": len(r["iterations"]), "steps": sum(i["steps"] for i in r["iterations"])}
        | {key: r["result"][key] for key in ("macs", "score")}
        for name, r in runs.items()
        if r.get("result")
    ]
    at_once = [{"name": "at once", "rounds": 1, **facts["one_shot"]}] if facts["one_shot"] else []
    return [*rows[:1], *at_once, *rows[1:]]


def score_format(metric: str) -> Callable[[float], str]:
    """Return how to write a metric's values: shares in percent."""
    if metric.partition("@")[0] in _SHARES:
        return lambda value: f"{100 * value:.2f} %"
    return lambda value: f"{value:.4g}"


def score_tick(metric: str) -> Callable[[float], str]:
    """Return how to write round values of a metric on an axis."""
    if metric.partition("@")[0] in _SHARES:
        return lambda value: f"{100 * value:.4g} %"
    return lambda value: f"{value:.4g}"


def blocked(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return why axes cannot be pruned, one row an operator and reason, the rarest first."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in facts["blocked"]:
        key = (entry["operator"], entry["reason"])
        row = found.setdefault(key, {"operator": key[0], "reason": key[1], "nodes": [], "axes": []})
        row["nodes"].append(entry["node"])
        row["axes"] += entry["axes"]
    return sorted(found.values(), key=lambda row: len(row["axes"]))


def score_change(metric: str, before: float, after: float) -> str:
    """Return how a metric has changed: shares in points."""
    if metric.partition("@")[0] in _SHARES:
        return f"{100 * (after - before):+.2f} points".replace("-", "−")
    return f"{after - before:+.3g}".replace("-", "−")


def milliseconds(value: float) -> str:
    """Return a latency as text."""
    return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"


def _figures(facts: Mapping[str, Any], score: Callable[[float], str]) -> dict[str, Any]:
    """Draw the contents of the page."""
    return {"progress": _progress(facts, score), "sensitivities": _sensitivities(facts)}


def _progress(facts: Mapping[str, Any], score: Callable[[float], str]) -> list[tuple[str, Markup]]:
    from onnxprune.app.report.charts import over_iterations

    result = facts["result"] or {}
    rows = [{**facts["original"], "score": facts["original"]["val_score"]}, *facts["iterations"]]
    titles = {"score": facts["metric"], "macs": "multiply-accumulates", "latency_ms": "latency"}
    shows = {"score": score, "macs": count, "latency_ms": milliseconds}
    drawn = []
    for key, title in titles.items():
        if len(rows) > 1 and all(key in row for row in rows):
            floor = result.get("floor") if key == "score" else None
            values, best = [row[key] for row in rows], result.get("best_iteration") or 0
            tick = score_tick(facts["metric"]) if key == "score" else shows[key]
            drawn.append(
                (
                    f"{title} over the iterations",
                    over_iterations(title, values, shows[key], tick, best, floor),
                )
            )
    return [*drawn, *_against_cost(facts, rows, score)]


def _against_cost(
    facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], score: Callable[[float], str]
) -> list[tuple[str, Markup]]:
    """Draw the metric over the multiply-accumulates."""
    from onnxprune.app.report.charts import against_cost

    if len(rows) < 2:
        return []
    title, other = f"{facts['metric']} over multiply-accumulates", facts["one_shot"]
    points = [("original" if n == 0 else str(n), row["macs"], row["score"]) for n, row in enumerate(rows)]
    rival = ("at once", other["macs"], other["score"]) if other else None
    ticks = (count, score_tick(facts["metric"]))
    return [(title, against_cost(title, points, rival, (count, score), ticks))]


def _sensitivities(facts: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    from onnxprune.app.report.charts import sensitivity

    if not facts["curves"]:
        return []
    groups, baseline = facts["curves"]["groups"], facts["curves"]["baseline"]
    removed = {w["group"]: 1 - w["after"] / w["before"] for w in facts["widths"]}
    worst = max((g["worst_drop"] for g in groups.values()), default=0.0)
    chosen: Sequence[str] = sorted(groups, key=lambda n: -groups[n]["worst_drop"])[:MOST_CURVES]
    return [
        (n, sensitivity(n, g["ratios"], [abs(v - baseline) for v in g["values"]], worst, removed.get(n)))
        for n in chosen
        for g in (groups[n],)
    ]


def _environment(form: str = "html") -> Environment:
    try:
        from jinja2 import Environment, PackageLoader
    except ImportError as missing:
        raise UsageError(
            "`report` needs a package that is not installed: jinja2",
            'install it with: pip install "onnxprune[report]"',
        ) from missing
    made = Environment(
        loader=PackageLoader("onnxprune.app.report", "."),
        autoescape=form == "html",
        finalize=_in_markdown if form == "md" else None,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(count=count, ms=milliseconds, duration=duration, less_than=_less_than)
    return made


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")


def _in_markdown(value: object) -> object:
    """Escape every text that a template writes, except for markup."""
    from markupsafe import Markup

    return in_markdown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _less_than(after: float, before: float) -> float:
    """Return the reduction of a cost; none where there was none of it."""
    return 1 - after / before if before else 0.0
