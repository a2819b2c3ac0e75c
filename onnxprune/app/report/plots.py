"""The page's figures as files for slides and papers, drawn by matplotlib."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from onnxprune.app.figures import count
from onnxprune.app.report.page import score_format
from onnxprune.errors import UsageError
from onnxprune.support.wording import clean, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGES = ("png", "pdf")
_DPI = 160
_ACROSS = 4  # groups in a row
_LABEL = 60  # characters of a name
_BLUE, _ORANGE = "#1f6fd0", "#b4470f"


def plots(facts: Mapping[str, Any], form: str = "png") -> dict[str, bytes]:
    """Return figures of a run as files, by file name.

    Args:
        facts: Facts that `onnxprune.app.report.collect` found.
        form: ``png`` or ``pdf``.

    Raises:
        UsageError: matplotlib is not installed, or the form is unknown.
    """
    if form not in IMAGES:
        raise UsageError(f"there is no form '{form}' of figures", f"choose from: {', '.join(IMAGES)}")
    made = {"iterations": _iterations, "widths": _widths, "sensitivity": _sensitivity}
    facts = _plain(facts)
    drawn = {name: draw(facts) for name, draw in made.items()}
    return {f"{name}.{form}": _stored(figure, form) for name, figure in drawn.items() if figure}


def plot(name: str, facts: Mapping[str, Any], form: str) -> bytes:
    """Return one figure as the content of a file.

    Args:
        name: ``sensitivity`` or ``widths``.
        facts: Contents of the figure: ``curves`` and ``widths`` of `onnxprune.app.report.collect`.
        form: ``svg``, ``png`` or ``pdf``.

    Raises:
        UsageError: matplotlib is not installed, or the form is unknown.
    """
    if form not in ("svg", *IMAGES):
        raise UsageError(f"there is no form '{form}' of figures", f"choose from: svg, {', '.join(IMAGES)}")
    figure = {"widths": _widths, "sensitivity": _sensitivity}[name](_plain(facts))
    return _stored(figure or _figure(1, 1, empty=True)[0], form)


def _plain(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return facts without names that act, and without metrics and groups that are taken for formulas."""
    found = clean(facts)
    for width in found["widths"]:
        width["group"] = _no_formula(width["group"])
    if curves := found.get("curves"):
        curves["metric"] = _no_formula(curves["metric"])
        curves["groups"] = {_no_formula(name): curve for name, curve in curves["groups"].items()}
    return {**found, "metric": _no_formula(found["metric"])} if "metric" in found else found


def _no_formula(text: str) -> str:
    return shortened(text, _LABEL).replace("$", r"\$")


def _iterations(facts: Mapping[str, Any]) -> Figure | None:
    """Draw the metric over the cost: the way of the iterations, and the model pruned at once."""
    if not facts["iterations"]:
        return None
    rows = [{**facts["original"], "score": facts["original"]["val_score"]}, *facts["iterations"]]
    figure, axes = _figure(6.4, 4.0)
    costs, scores = [r["macs"] for r in rows], [r["score"] for r in rows]
    axes.plot(costs, scores, "o-", color=_BLUE, label="in iterations")
    for number, row in enumerate(rows):
        label = str(number) if number else "original"
        axes.annotate(label, (row["macs"], row["score"]), (0, 8), textcoords="offset points", ha="center")
    if other := facts["one_shot"]:
        axes.plot([other["macs"]], [other["score"]], "s", color=_ORANGE, label="at once")
    if (facts["result"] or {}).get("floor") is not None:
        axes.axhline(facts["result"]["floor"], color=_ORANGE, linestyle="--", linewidth=1, label="floor")
    axes.set(xlabel="multiply-accumulates", ylabel=facts["metric"], xlim=(0, 1.1 * max(costs)))
    axes.margins(y=0.15)
    axes.xaxis.set_major_formatter(_written(count))
    axes.yaxis.set_major_formatter(_written(score_format(facts["metric"])))
    axes.legend(frameon=False, loc="best")
    return figure


def _widths(facts: Mapping[str, Any]) -> Figure | None:
    """Draw the channels of every group, before and after."""
    widths = facts["widths"]
    if not widths:
        return None
    figure, axes = _figure(6.4, 1.0 + 0.28 * len(widths))
    places = range(len(widths))
    axes.barh(places, [w["before"] for w in widths], color="#c9d9ee", label="before")
    axes.barh(places, [w["after"] for w in widths], color=_BLUE, label="after")
    axes.set_yticks(list(places), [w["group"] for w in widths])
    axes.invert_yaxis()
    axes.set(xlabel="channels")
    axes.legend(frameon=False)
    return figure


def _sensitivity(facts: Mapping[str, Any]) -> Figure | None:
    """Draw the cost of each group's loss, all on one scale; a line where it was cut in the end."""
    if not facts["curves"]:
        return None
    groups, baseline = facts["curves"]["groups"], facts["curves"]["baseline"]
    removed = {w["group"]: 1 - w["after"] / w["before"] for w in facts["widths"]}
    rows = math.ceil(len(groups) / _ACROSS)
    figure, _ = _figure(2.0 * _ACROSS, 0.4 + 1.5 * rows, empty=True)
    grid = figure.subplots(rows, _ACROSS, sharex=True, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, [*groups, *[""] * (grid.size - len(groups))], strict=True):
        if not name:
            axes.set_axis_off()
            continue
        values = [abs(v - baseline) for v in groups[name]["values"]]
        axes.plot([0.0, *groups[name]["ratios"]], [0.0, *values], color=_BLUE)
        if errors := groups[name].get("uncertainties"):
            axes.errorbar(groups[name]["ratios"], values, errors, fmt="none", ecolor=_BLUE, elinewidth=0.8)
        axes.axvline(removed.get(name, 0.0), color=_ORANGE, linestyle="--", linewidth=1)
        axes.set_title(name, fontsize=7)
        axes.set_xlim(0, 1)
    figure.supxlabel("removed of the group")
    figure.supylabel(f"change of {facts['curves']['metric']}")
    return figure


def _figure(width: float, height: float, empty: bool = False) -> tuple[Figure, Axes]:
    """Return a figure of so many inches, without a window and outside matplotlib's global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as missing:
        raise UsageError(
            "figures need a package that is not installed: matplotlib",
            'install it with: pip install "onnxprune[figures]"',
        ) from missing
    figure = Figure((width, height), dpi=_DPI, layout="constrained")
    axes: Any = None if empty else figure.subplots()
    return figure, axes


def _written(show: Callable[[float], str]) -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: show(value))


def _stored(figure: Figure, form: str) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():  # of characters that a font has not
        warnings.simplefilter("ignore")
        figure.savefig(stream, format=form)
    return stream.getvalue()
