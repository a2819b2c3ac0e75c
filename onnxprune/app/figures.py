"""Formatting of numbers and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from onnxprune.support.wording import escaped, shortened, shown

_GAP = 2  # columns of the terminal between two columns of a table
_SHORTEST_NAME = 16


@dataclass(frozen=True)
class FittedTable:
    """A table fitted to the available width: names lose their middle, sentences wrap.

    Attributes:
        columns: The names of the columns; ``>`` before one sets it to the right, ``…`` before one marks
            names, which may be shortened.
        rows: The cells of each row; text is taken as it is, markup and all.
        title: The line above.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the table at the width of the console."""
        longest = self._lengths_of_names(options.max_width)
        made = Table(
            title=Text(self.title) if self.title else None,
            title_justify="left",
            box=None,
            pad_edge=False,
            header_style="bold",
        )
        for name in self.columns:
            justify: Literal["left", "right"] = "right" if name.startswith(">") else "left"
            fixed = justify == "right" or name.startswith("…")
            made.add_column(Text(shown(name.lstrip(">…"))), justify=justify, overflow="fold", no_wrap=fixed)
        for row in self.rows:
            made.add_row(*(Text(shortened(c, longest[k]) if k in longest else c) for k, c in enumerate(row)))
        yield made

    def _lengths_of_names(self, width: int) -> dict[int, int]:
        """Return the longest text of each column of names such that the table fits."""
        widths = [max(map(cell_len, (n.lstrip(">…"), *cells))) for n, cells in self._by_column()]
        names = {k for k, name in enumerate(self.columns) if name.startswith("…")}
        wrapped = {k for k, name in enumerate(self.columns) if not name.startswith((">", "…"))}
        fixed = sum(min(w, _SHORTEST_NAME) if k in wrapped else w for k, w in enumerate(widths))
        excess = fixed + _GAP * (len(widths) - 1) - width
        while excess > 0 and any(widths[k] > _SHORTEST_NAME for k in names):
            widest = max(names, key=lambda k: widths[k])
            widths[widest] -= 1
            excess -= 1
        return {k: widths[k] for k in names}

    def _by_column(self) -> list[tuple[str, list[str]]]:
        return [(name, [row[k] for row in self.rows]) for k, name in enumerate(self.columns)]


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> FittedTable:
    """Return a table; see `FittedTable` for its arguments."""
    return FittedTable(columns, [[escaped(str(cell)) for cell in row] for row in rows], title)


def count(value: float) -> str:
    """Return a number with three significant digits: ``1.23 M``."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}" if value / size < 999.5 else f"{value / size:.0f}{unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Return a time: ``1.5 h``, ``12 min``, ``3.2 s``."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.1f} s"


def file_size(value: float) -> str:
    """Return a number of bytes: ``1.23 MB``."""
    return f"{count(value)}B" if value >= 1e3 else f"{value:.0f} B"


def shapes_text(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return shapes of inputs as text: ``image 1×3×224×224``."""
    return ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in shapes.items())


def timed_on(backend: str, device: str) -> str:
    """Return a latency back-end and its device as text; the back-end alone where it contains the device."""
    return backend if device in backend else f"{device} ({backend})"


def reduction(before: float, after: float) -> str:
    """Return by how much something has shrunk: ``−40.1 %``."""
    change = after / before - 1 if before else 0.0
    return f"{change:+.1%}".replace("-", "−").replace("%", " %")


def before_and_after(rows: Iterable[tuple[str, float, float]]) -> FittedTable:
    """Return a table of figures before and after, with their reductions; files in bytes."""
    cells = []
    for name, before, after in rows:
        show = file_size if name == "file" else count
        cells.append((name, show(before), show(after), reduction(before, after)))
    return table(("", ">before", ">after", ">change"), cells)


def widths(groups: Mapping[str, Mapping[str, int]], blocks: Iterable[str] = ()) -> FittedTable:
    """Return a table of the groups that lost channels, and of the removed blocks."""
    rows = [
        (n, str(w["before"]), str(w["after"]), reduction(w["before"], w["after"])) for n, w in groups.items()
    ]
    rows += [(name, "", "", "removed") for name in blocks]
    return table(("…group", ">channels", ">kept", ">change"), rows)


def agreement(facts: Mapping[str, Any], models: str) -> str:
    """Return how well two models agree, in a sentence.

    Args:
        facts: Facts of a verdict.
        models: Name of the two, the subject of the sentence.
    """
    if not facts.get("shown", True):
        return f"{models} were not shown to compute the same by a run: {facts['reason']}{certified(facts)}"
    error = f"max_rel_error {facts['max_rel_error']:.1e}, allowed {facts['allowed_rel_error']:.1e}"
    proof = certified(facts)
    verb = "agree" if facts["equal"] else "differ, as axes that the network normalises over were shortened,"
    notes = "".join(f"; {note}" for note in facts.get("notes", ()))
    return f"{models} {verb} on {facts['runs']} runs: {error}{notes}{proof}"


def certified(facts: Mapping[str, Any]) -> str:
    """Return how far two models are shown to compute the same beyond the runs, as the end of a sentence."""
    certificate = facts.get("certificate")
    if certificate is None:
        return ""
    if certificate["certified"]:
        return "; certified for all inputs"
    count = len(facts.get("sizes", ()))
    place = {"operator", "tensor"} <= certificate.keys()
    where = f"{certificate['operator']} '{certificate['tensor']}': " if place else ""
    sizes = f"compared at {count} size{'' if count == 1 else 's'}"
    reason = certificate.get("reason", "no reason is noted")
    return f"; {sizes}, not certified for all inputs ({where}{reason})"


def assumed_text(facts: Mapping[str, Any]) -> str:
    """Return a sentence on the MACs whose sizes depend on the data; empty where none do."""
    sizes = facts.get("assumed_sizes") or {}
    listed = [f"{name} = {number}" for name, number in list(sizes.items())[:3]]
    listed += ["…"] if len(sizes) > 3 else []
    share = facts.get("macs_assumed", 0.0)
    return (
        f"{share:.0%} of the MACs depend on sizes that only the data tell: {', '.join(listed)}"
        if sizes
        else ""
    )


def uncounted_texts(facts: Mapping[str, Any]) -> list[str]:
    """Return warnings on a budget of MACs: work that is not counted, and work counted at assumed sizes."""
    nodes = facts.get("uncounted") or []
    sentences = []
    if nodes:
        first = nodes[0]
        more = f" and {len(nodes) - 1} more nodes" if len(nodes) > 1 else ""
        sentences.append(
            f"the work of {first['operator']} '{first['node']}'{more} is not counted: {first['reason']}"
        )
    assumed = assumed_text(facts)
    return [f"warning: {text}" for text in (*sentences, *([assumed] if assumed else []))]
