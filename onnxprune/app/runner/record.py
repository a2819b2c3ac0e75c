"""The form of ``state.json``: the record of a run, which reports read."""

from __future__ import annotations

from typing import Any

from onnxprune.support.json_forms import (
    ANYTHING,
    COUNT,
    FLAG,
    NUMBER,
    REAL,
    TEXT,
    MappingOf,
    Nullable,
    check_form,
)

_COSTS = {"macs": COUNT, "params": COUNT, "channels": COUNT}
_REDUCTIONS = {"macs_reduction": NUMBER, "params_reduction": NUMBER, "channels_reduction": NUMBER}
_WIDTH = {"before": COUNT, "after": COUNT}
_BLOCKED = {"node": TEXT, "operator": TEXT, "reason": TEXT, "axes": [TEXT]}
_BASELINE = {
    "metric": TEXT,
    "higher_is_better": FLAG,
    "score": NUMBER,
    **_COSTS,
    "size_bytes": COUNT,
    "groups": MappingOf(COUNT),
    "spared": MappingOf(COUNT),
    "blocked": [_BLOCKED],
}
_FACTS = {
    "baseline": _BASELINE,
    "prune": {**_COSTS, **_REDUCTIONS, "groups": MappingOf(_WIDTH), "score?": Nullable(NUMBER)},
    "sparsify": {"score?": TEXT},
    "score": {"model": TEXT, "score": NUMBER},
    "noise": {"standard_error": NUMBER},
    "basis": {"kept": FLAG},
    "factorize": {"macs_reduction?": NUMBER, "params_reduction?": NUMBER},
    "finetune": {"losses?": [REAL], "steps?": COUNT, "score?": Nullable(NUMBER)},
    "transform": {
        "score": NUMBER,
        "score_before?": NUMBER,
        "judged_on": TEXT,
        **_COSTS,
        "size_bytes": COUNT,
        "max_rel_error": NUMBER,
        "allowed_rel_error": NUMBER,
        "runs": COUNT,
        "sizes?": [ANYTHING],
        "certificate?": Nullable({"certified": FLAG, "operator?": TEXT, "tensor?": TEXT, "reason?": TEXT}),
    },
    "bench": {"models": MappingOf({"latency_ms": NUMBER}), "batch_size?": COUNT, "threads?": Nullable(COUNT)},
}
"""Forms of the facts of steps, by the last part of their names."""
_RESULT = {
    "reason": TEXT,
    "floor": Nullable(NUMBER),
    "best_iteration": COUNT,
    "sparse": TEXT,
    "dense": TEXT,
    "missed?": FLAG,
    "iterations": [{"number": COUNT, "good": FLAG}],
}
_SHOWN = ("macs_reduction", "params_reduction", "training_s", "max_rel_error")
"""Facts of any step that its line of progress has, beside the score."""
_STEP = {
    "inputs": MappingOf(ANYTHING),
    "files": MappingOf(TEXT),
    "facts": {f"{name}?": NUMBER for name in _SHOWN},
    "duration_s": NUMBER,
}
_STATE = {"result?": Nullable(_RESULT), "stopped?": TEXT, "steps": MappingOf(_STEP)}
_BEGUN = {
    "steps": {"baseline": {"inputs": {"original": TEXT}}},
    "recipe": {"model": TEXT, "budget": MappingOf(Nullable(NUMBER))},
    "threads": Nullable(COUNT),
    "made_with": MappingOf(TEXT),
}
"""Form of the inputs of the first step, on which all later steps depend."""


def check_state(state: Any) -> None:
    """Compare a state with its form.

    Raises:
        ValueError: Naming the place of the difference.
    """
    check_form(state, _STATE)
    for name, step in state["steps"].items():
        if set(step) != set(_STEP):
            raise ValueError(f"steps.{name} has other keys than {', '.join(_STEP)}")
        check_form(
            step["facts"], _FACTS.get(name.rpartition("-")[2], MappingOf(ANYTHING)), f"steps.{name}.facts"
        )
    for name in state["steps"]:
        stem = name.removesuffix("-score")
        made = {f"{stem}-prune", f"{stem}-sparsify"}
        if name.endswith("-score") and made.isdisjoint(state["steps"]):
            raise ValueError(f"steps.{stem}-prune is missing")
    for name, facts in ((n, s["facts"]) for n, s in state["steps"].items() if n.endswith("-prune")):
        if any(w["before"] < 1 for w in facts["groups"].values()):
            raise ValueError(f"steps.{name}.facts.groups has a group without channels")
    if "baseline" in state["steps"]:
        check_form(state, _BEGUN)
        if all(target is None for target in state["recipe"]["budget"].values()):
            raise ValueError("recipe.budget has no target")
