"""Forecast of the steps of a run and their duration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxprune.app.recipe import Recipe

_SHORT = "baseline"
"""Step whose duration is assumed for steps that only judge and cut, until one of their kind has run."""
_LONG = ("ana", "recover", "finetune", "sparsify", "factorize")


def planned_steps(recipe: Recipe) -> dict[str, int]:
    """Return the steps of a run in which every iteration is good, in their order.

    Returns:
        Their sizes by name: the epochs where a step trains, else 1.
    """
    epochs, last = recipe.finetune.epochs, recipe.finetune.last_epochs
    every = [epochs] * len(recipe.schedule.planned(recipe.budget.target))
    every[-1] = epochs if last is None else last
    found = {"baseline": 1} | ({"rotate": 1} if recipe.prune.rotate == "always" else {})
    found |= {"factorize": 1} if recipe.factorize.enabled else {}
    for number, size in enumerate(every, 1):
        measured = recipe.ana.repeat or number == 1
        steps = {kind: n for kind, n in _round(recipe, size).items() if measured or kind != "ana"}
        found |= {f"{number}-{kind}": n for kind, n in steps.items()}
    if recipe.sparsify.enabled:
        trained = every[-1] if recipe.sparsify.epochs is None else recipe.sparsify.epochs
        steps = {"sparsify": 1, "finetune": trained, "score": 1}
        found |= {f"pattern-{kind}": n for kind, n in steps.items() if n}
    found |= {"rows": 1} if recipe.vocabulary.enabled else {}
    found["transform"] = 1
    if recipe.compare.one_shot:
        steps = _round(recipe, sum(every))
        found |= {f"one-shot-{kind}": n for kind, n in steps.items() if kind != "ana"}
    return found | {"bench": 1}


def _round(recipe: Recipe, epochs: int) -> dict[str, int]:
    """Return the kinds of steps of one round, with their sizes."""
    sizes = {"ana": int(recipe.ana.enabled), "prune": 1, "recover": int(recipe.recover.enabled)}
    sizes |= {"finetune": epochs, "score": 1}
    return {kind: size for kind, size in sizes.items() if size}


def kind_of(step: str) -> str:
    """Return the kind of a step: ``ana`` of ``2-ana``."""
    return step.rpartition("-")[2]


@dataclass
class Forecast:
    """The remaining duration of a run, estimated from its finished steps.

    Attributes:
        pending: Sizes of the steps to come, by name.
        paces: Seconds a step of some kind has taken, for each unit of its size.
    """

    pending: dict[str, int]
    paces: dict[str, float] = field(default_factory=dict)

    def receive(self, event: Mapping[str, Any]) -> None:
        """Update the forecast by an event: a finished step is not pending, and sets the pace of its kind."""
        if event["event"] == "start":
            return
        size, duration = self.pending.pop(event["step"], 0), float(event["duration_s"])
        if size:
            self.paces[kind_of(event["step"])] = duration / size

    def remaining_s(self) -> float | None:
        """Return the seconds that all steps to come will take; ``None`` while a pace is unknown."""
        total = 0.0
        for name, size in self.pending.items():
            kind = kind_of(name)
            pace = self.paces.get(kind, None if kind in _LONG else self.paces.get(_SHORT))
            if pace is None:
                return None
            total += size * pace
        return round(total, 1)
