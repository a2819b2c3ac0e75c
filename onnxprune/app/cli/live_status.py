"""The live view of a run in a terminal: a row for every round, the present step, and its duration."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from onnxprune.app.console import Bars, progress_bars
from onnxprune.app.figures import duration, table
from onnxprune.support.progress import reporting
from onnxprune.support.wording import shown

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxprune.app.recipe import Recipe

Facts = Mapping[str, Any]

_KINDS = {"ana": "analysis", "prune": "pruning", "recover": "recovery", "finetune": "training"}
_OWN_ROW = {"baseline": "original", "transform": "dense", "bench": "latency"}
"""Steps that belong to no round, with the names of their rows."""


@dataclass
class _Row:
    """The figures of one round."""

    took: dict[str, str] = field(default_factory=dict)
    loss: str = ""
    reduction: str = ""
    score: str = ""


@dataclass
class LiveStatus:
    """The live display of a run.

    Attributes:
        recipe: Recipe of the run.
        rows: The rounds so far, by name.
        ends_at: Predicted end of the run, on the monotonic clock; ``None`` while it is unknown.
        warning: Warning to show below.
    """

    recipe: Recipe
    rows: dict[str, _Row] = field(default_factory=dict)
    ends_at: float | None = None
    warning: str = ""

    def receive(self, event: Facts) -> None:
        """Take in an event."""
        if event["event"] == "untracked":
            self.warning = f"nothing more goes to {event['step']}: {event['because'][0]}"
            return
        name, _, kind = event["step"].rpartition("-")
        name, kind = (name, kind) if name else (_OWN_ROW[kind], kind)
        row, facts = self.rows.setdefault(name, _Row()), event.get("facts", {})
        row.took[kind] = _took(event)
        if facts.get("losses"):
            row.loss = f"{facts['losses'][0]:.3g} → {facts['losses'][-1]:.3g}"
        if "score" in facts:
            row.score = f"{facts['score']:.4f}"
        if removed := facts.get(f"{self.recipe.budget.of}_reduction"):
            row.reduction = f"−{removed:.1%}".replace("%", " %")
        left = event.get("remaining_s")
        self.ends_at = None if left is None else time.monotonic() + left

    def __rich__(self) -> RenderableType:
        """Return the board, to be drawn."""
        kinds = [kind for kind, is_run in self._kinds().items() if is_run]
        of = {"macs": "MACs", "params": "parameters"}.get(self.recipe.budget.of, "channels")
        columns = ("round", *(f">{_KINDS[k]}" for k in kinds), ">loss", f">{of}", f">{self.recipe.metric}")
        rows = [
            (n, *(r.took.get(k, "") for k in kinds), r.loss, r.reduction, r.score)
            for n, r in self.rows.items()
        ]
        return Group(table(columns, rows), Text(self._outlook(), style="dim"), *self._warnings())

    def _kinds(self) -> dict[str, bool]:
        training = bool(self.recipe.finetune.epochs or self.recipe.finetune.last_epochs)
        enabled = {"ana": self.recipe.ana.enabled, "recover": self.recipe.recover.enabled}
        return {kind: enabled.get(kind, training if kind == "finetune" else True) for kind in _KINDS}

    def _warnings(self) -> list[Text]:
        return [Text(shown(self.warning), style="yellow")] if self.warning else []

    def _outlook(self) -> str:
        goal = f"{self.recipe.budget.target:.0%} to be removed"
        if self.ends_at is None:
            return goal
        return f"{goal}, about {duration(max(0.0, self.ends_at - time.monotonic()))} to go"


@contextmanager
def on_display(board: LiveStatus, console: Console | None = None) -> Iterator[Live]:
    """Draw a board, and bars for the present steps, for as long as the block runs.

    Args:
        board: Board to draw.
        console: Console to draw on; standard error by default.

    Yields:
        Display that draws it.
    """
    console = console or Console(stderr=True)
    bars = progress_bars(console)
    live = Live(Group(board, bars), console=console, transient=True, refresh_per_second=4)
    with live, reporting(Bars(bars)):
        yield live


def _took(event: Facts) -> str:
    """Return the state of a step as text: under way, unchanged, or its duration."""
    return {"start": "…", "kept": "as before"}.get(event["event"]) or duration(event["duration_s"])
