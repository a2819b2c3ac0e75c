"""The content of a report, gathered from the work folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxprune.app.figures import certified
from onnxprune.app.runner import ONE_SHOT, read_state
from onnxprune.decisions.plan import Analysis
from onnxprune.errors import DataError, PlanError, UsageError
from onnxprune.support.path_guard import check_readable

Facts = dict[str, Any]

_COSTS = ("macs", "params", "channels")


def collect(folder: Path) -> Facts:
    """Return the record of a run so far, ready for JSON; a finished run has a ``result``.

    Args:
        folder: The work folder of `run`.

    Raises:
        UsageError: There is no run, or it has not even judged the original.
    """
    state = read_state(folder)
    steps: dict[str, Facts] = state["steps"]
    if "baseline" not in steps:
        raise UsageError(f"the run in {folder} has not judged the original yet", "let it go on with `run`")
    facts = {name: step["facts"] for name, step in steps.items()}
    latencies = facts.get("bench", {}).get("models", {})
    iterations = _iterations(facts, state.get("result") or {}, latencies)
    return {
        "model": Path(state["recipe"]["model"]).name,
        "metric": facts["baseline"]["metric"],
        "budget": _budget(state["recipe"]),
        "original": _original(facts, latencies),
        "iterations": iterations,
        "stopped": state.get("stopped"),
        "result": _result(facts, state.get("result"), latencies),
        "one_shot": _one_shot(facts, latencies),
        "widths": _widths(facts, iterations),
        "curves": _curves(folder, steps),
        "spared": facts["baseline"]["spared"],
        "blocked": facts["baseline"]["blocked"],
        "bench": {k: v for k, v in facts.get("bench", {}).items() if k != "models"},
        "recipe": state["recipe"],
        "threads": state["threads"],
        "versions": state["made_with"],
        "original_sha256": steps["baseline"]["inputs"]["original"],
        "dense_sha256": steps.get("transform", {}).get("files", {}).get("dense.onnx"),
        "steps": [{"name": name, "duration_s": step["duration_s"]} for name, step in steps.items()],
        "duration_s": sum(step["duration_s"] for step in steps.values()),
    }


def _original(facts: Mapping[str, Facts], latencies: Mapping[str, Facts]) -> Facts:
    """Return the figures of the model before pruning; scored on the data the result is judged on."""
    names = ("score", *_COSTS, "size_bytes")
    found = {name: facts["baseline"][name] for name in names}
    judged = facts.get("transform", {}).get("score_before")
    found |= {"val_score": found["score"]} | ({"score": judged} if judged is not None else {})
    return found | latencies.get("original", {})


def _result(facts: Mapping[str, Facts], result: Facts | None, latencies: Mapping[str, Facts]) -> Facts | None:
    """Return the figures of the dense model; ``None`` where there is none yet."""
    if result is None or "transform" not in facts:
        return None
    names = ("score", "judged_on", *_COSTS, "size_bytes", "max_rel_error", "allowed_rel_error", "runs")
    found = {name: facts["transform"][name] for name in names}
    found["shown"] = certified(facts["transform"])
    outcome = {name: result[name] for name in ("reason", "floor", "best_iteration", "dense")}
    outcome["missed"] = result.get("missed", False)
    outcome["pattern"] = facts["transform"].get("pattern")
    return found | outcome | latencies.get("dense", {})


def _iterations(facts: Mapping[str, Facts], result: Facts, latencies: Mapping[str, Facts]) -> list[Facts]:
    """Return the figures of every iteration that has been judged, finished run or not."""
    found = []
    good = {i["number"]: i["good"] for i in result.get("iterations", ())}
    number, best = 1, result.get("best_iteration")
    while f"{number}-score" in facts:
        pruned = facts[f"{number}-prune"]
        found.append(
            {
                "number": number,
                "score": facts[f"{number}-score"]["score"],
                **{cost: pruned[cost] for cost in _COSTS},
                **{f"{cost}_reduction": pruned[f"{cost}_reduction"] for cost in _COSTS},
                **_training(facts, str(number)),
                "good": good.get(number, True),
                "best": number == best,
                **latencies.get("dense" if number == best else str(number), {}),
            }
        )
        number += 1
    return found


def _one_shot(facts: Mapping[str, Facts], latencies: Mapping[str, Facts]) -> Facts | None:
    """Return the figures of the model pruned at once; ``None`` where the recipe does not ask for it."""
    name = ONE_SHOT.name
    if f"{name}-score" not in facts:
        return None
    found = {cost: facts[f"{name}-prune"][cost] for cost in _COSTS}
    found |= {"score": facts[f"{name}-score"]["score"], "steps": _training(facts, name)["steps"]}
    return found | latencies.get(name, {})


def _training(facts: Mapping[str, Facts], name: str) -> Facts:
    """Return how a round was trained, if it was."""
    trained = facts.get(f"{name}-finetune", {})
    return {"losses": trained.get("losses", []), "steps": trained.get("steps", 0)}


def _widths(facts: Mapping[str, Facts], iterations: list[Facts]) -> list[Facts]:
    """Return every group's width before and after the best iteration (the latest, where none is named)."""
    chosen = next((i for i in iterations if i["best"]), iterations[-1] if iterations else None)
    pruned = facts[f"{chosen['number']}-prune"]["groups"] if chosen else {}
    sizes = facts["baseline"]["groups"] | {name: width["before"] for name, width in pruned.items()}
    return [
        {"group": name, "before": size, "after": pruned.get(name, {}).get("after", size)}
        for name, size in sizes.items()
    ]


def _curves(folder: Path, steps: Mapping[str, Facts]) -> Facts | None:
    """Return the sensitivity of the original's groups, if the first iteration measured it."""
    files = steps.get("1-ana", {}).get("files", {})
    if not files:
        return None
    try:
        check_readable([folder / next(iter(files))])
        analysis = Analysis.from_json((folder / next(iter(files))).read_text("utf-8"))
    except (OSError, PlanError, DataError):  # a page without this figure is better than none
        return None
    return {
        "metric": analysis.metric,
        "baseline": analysis.baseline,
        "groups": {
            name: {
                "ratios": list(curve.ratios),
                "values": list(curve.values),
                "worst_drop": max(map(analysis.drop, curve.values), default=0.0),
            }
            for name, curve in analysis.curves.items()
        },
    }


def _budget(recipe: Mapping[str, Any]) -> Facts:
    name, target = next((k, v) for k, v in recipe["budget"].items() if v is not None)
    return {"of": name.removeprefix("reduce_"), "target": target}
