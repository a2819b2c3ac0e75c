"""Figures as SVG, drawn by hand: a few lines each, and their colours follow the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Format = Callable[[float], str]


@dataclass(frozen=True)
class ChartFrame:
    """A drawing area, and how values map into it.

    Attributes:
        width: Width of the whole figure, in pixels.
        height: Likewise.
        x: Smallest and largest value of the horizontal axis.
        y: Likewise of the vertical axis.
        left: Room for the numbers on the vertical axis.
        right: Room for the label of the last point.
        top: Room for a label above the topmost point.
        bottom: Room for the numbers below.
    """

    width: int
    height: int
    x: tuple[float, float]
    y: tuple[float, float]
    left: int = 52
    right: int = 84
    top: int = 24
    bottom: int = 28

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point lies, in pixels."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        inner = self.width - self.left - self.right, self.height - self.top - self.bottom
        return round(self.left + across * inner[0], 1), round(self.height - self.bottom - up * inner[1], 1)

    def line(self, points: Sequence[tuple[float, float]], kind: str = "line") -> str:
        """Return a line through points."""
        path = " ".join(f"{x},{y}" for x, y in (self.at(*p) for p in points))
        return f'<polyline class="{kind}" points="{path}"/>'

    def grid(self, ticks: Sequence[float], show: Format) -> str:
        """Return horizontal lines with their numbers."""
        parts = []
        for tick in ticks:
            _, y = self.at(self.x[0], tick)
            parts.append(
                f'<line class="grid" x1="{self.left}" x2="{self.width - self.right}" y1="{y}" y2="{y}"/>'
            )
            parts.append(_text("tick", self.left - 6, y + 4, "end", show(tick)))
        return "".join(parts)

    def drawing(self, name: str, *parts: str) -> Markup:
        """Return the whole figure, with a name for screen readers."""
        box = f'viewBox="0 0 {self.width} {self.height}"'
        return Markup(f'<svg {box} role="img" aria-label="{escape(name)}">{"".join(parts)}</svg>')


def over_iterations(
    name: str, values: Sequence[float], show: Format, tick: Format, best: int, floor: float | None = None
) -> Markup:
    """Draw one figure of the original (0) and of every iteration.

    Args:
        name: Name of the figure.
        values: One an iteration, the original's first.
        show: Format of a value.
        tick: Format of a round value on the axis.
        best: The iteration to be marked.
        floor: A value to be marked by a dashed line.
    """
    every = [*values, *([floor] if floor is not None else [])]
    ticks = nice_ticks(min(every), max(every))
    sides = {"left": _room(ticks, tick), "right": max(84, 16 + 8 * len(show(values[-1])))}
    frame = ChartFrame(320, 190, (0, max(1, len(values) - 1)), (ticks[0], ticks[-1]), **sides)
    marks = [_mark(frame, i, v, show, i == best, len(values)) for i, v in enumerate(values)]
    below = [_tick_below(frame, i, "original" if i == 0 else str(i)) for i in range(len(values))]
    limit = "" if floor is None else frame.line([(frame.x[0], floor), (frame.x[1], floor)], "floor")
    line = frame.line(list(enumerate(values)))
    return frame.drawing(name, frame.grid(ticks, tick), limit, line, *marks, *below)


def against_cost(
    name: str,
    points: Sequence[tuple[str, float, float]],
    rival: tuple[str, float, float] | None,
    shows: tuple[Format, Format],
    ticks: tuple[Format, Format],
) -> Markup:
    """Draw the score of every model over its cost, the iterations joined by a line.

    Args:
        name: Name of the figure.
        points: Label, cost and score of the original and of every iteration.
        rival: The same of a model that was made in another way.
        shows: Formats of a cost and of a score.
        ticks: Formats of round values on the axes.
    """
    every = [*points, *([rival] if rival else [])]
    costs, worths = [c for _, c, _ in every], [w for _, _, w in every]
    across, up = nice_ticks(0, max(costs)), nice_ticks(min(worths), max(worths))
    left = _room(up, ticks[1])
    frame = ChartFrame(320, 190, (across[0], across[-1]), (up[0], up[-1]), left=left, right=24)
    line = frame.line([(cost, worth) for _, cost, worth in points])
    marks = [_point(frame, "point", label, c, w, shows) for label, c, w in points]
    marks += [_point(frame, "rival", *rival, shows)] if rival else []
    below = [_text("tick", frame.at(c, 0)[0], frame.height - 8, "middle", ticks[0](c)) for c in across]
    return frame.drawing(name, frame.grid(up, ticks[1]), line, *marks, *below)


def _point(
    frame: ChartFrame, kind: str, label: str, cost: float, worth: float, shows: tuple[Format, Format]
) -> str:
    """Draw a point, its figures on hovering."""
    x, y = frame.at(cost, worth)
    tip = f"<title>{escape(label)}: {escape(shows[0](cost))}, {escape(shows[1](worth))}</title>"
    name = _text("tick", x, y - 9, "middle", label)
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="4.5">{tip}</circle>{name}'


def sensitivity(
    name: str, ratios: Sequence[float], drops: Sequence[float], worst: float, removed: float | None
) -> Markup:
    """Draw how much one group's loss costs, on the scale of all groups.

    Args:
        name: The group.
        ratios: Fractions removed.
        drops: Drop of the metric at each of them.
        worst: The largest drop of all groups.
        removed: The fraction that was removed in the end, marked by a line.
    """
    frame = ChartFrame(180, 84, (0, 1), (0, worst or 1), left=4, right=4, top=6, bottom=4)
    points = [(0.0, 0.0), *zip(ratios, drops, strict=True)]
    parts = [frame.line([(0, 0), (1, 0)], "grid"), frame.line(points)]
    if removed:
        parts.append(frame.line([(removed, 0), (removed, worst or 1)], "removed"))
    return frame.drawing(f"sensitivity of {name}", *parts)


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers that enclose a range, at most so many."""
    if high <= low:
        low, high = low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5)
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (power * f for f in (1, 2, 2.5, 5, 10, 20)):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most:
            break
    return [round(k * step, 12) for k in range(first, last + 1)]


def _room(ticks: Sequence[float], show: Format) -> int:
    """Return the pixels that the numbers on a vertical axis need."""
    return max(52, 10 + 7 * max(len(show(tick)) for tick in ticks))


def _mark(frame: ChartFrame, index: int, value: float, show: Format, best: bool, count: int) -> str:
    """Draw a point with its value: in words at both ends and at the best, on hovering elsewhere."""
    x, y = frame.at(index, value)
    tip = f"<title>{'original' if index == 0 else f'iteration {index}'}: {escape(show(value))}</title>"
    point = f'<circle class="{"best" if best else "point"}" cx="{x}" cy="{y}" r="4.5">{tip}</circle>'
    if not (best or index in (0, count - 1)):
        return point
    if index and index == count - 1:
        return point + _text("value", x + 10, y + 4, "start", show(value))
    return point + _text(
        "value", x + (0 if index else 2), y - 10, "middle" if index else "start", show(value)
    )


def _tick_below(frame: ChartFrame, index: int, text: str) -> str:
    x, _ = frame.at(index, frame.y[0])
    return _text("tick", x if index else x - 8, frame.height - 8, "middle" if index else "start", text)


def _text(kind: str, x: float, y: float, anchor: str, words: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
