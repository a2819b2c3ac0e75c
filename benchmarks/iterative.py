"""Prune in several iterations, or all at once? The same budget, the same number of training steps.

    python benchmarks/iterative.py [RECIPE] [--seeds N] [--folder FOLDER] [--set KEY=VALUE]…

Both are runs of one recipe: as it stands, and with a single iteration that trains for as many epochs as all
of its iterations together. The seed decides the order of the samples. Finished runs are not done again.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from onnxprune.cli.run import say
from onnxprune.console import show_progress
from onnxprune.recipe import Recipe, read_recipe
from onnxprune.report import collect, render
from onnxprune.runner import run

HERE = Path(__file__).resolve().parent


def main() -> None:
    options = parse()
    found: dict[str, list[dict[str, Any]]] = {"iterative": [], "one-shot": []}
    for seed in range(options.seeds):
        iterative = read_recipe(options.recipe, [*options.overrides, f"seed={seed}"])
        folders = {name: options.folder / f"{name}-{seed}" for name in found}
        for name, recipe in {"iterative": iterative, "one-shot": at_once(iterative)}.items():
            with show_progress():
                run(recipe.model_copy(update={"folder": str(folders[name])}), say)
            found[name].append(collect(folders[name]))
        page = render(found["iterative"][-1], against=found["one-shot"][-1])
        (options.folder / f"report-{seed}.html").write_text(page, "utf-8")
    show(found)


def at_once(recipe: Recipe) -> Recipe:
    """Return the recipe with one iteration of as many epochs as all its iterations have."""
    target, tuning = recipe.budget.target, recipe.finetune
    rounds = len(recipe.schedule.planned(target))
    last = tuning.epochs if tuning.last_epochs is None else tuning.last_epochs
    epochs = (rounds - 1) * tuning.epochs + last
    schedule = recipe.schedule.model_copy(update={"iterations": 1, "reductions": ()})
    stop = recipe.stop.model_copy(update={"max_drop": None, "floor": None})
    tuning = tuning.model_copy(update={"epochs": epochs, "last_epochs": None})
    return recipe.model_copy(update={"schedule": schedule, "finetune": tuning, "stop": stop})


def show(found: dict[str, list[dict[str, Any]]]) -> None:
    for name, runs in found.items():
        scores = [r["result"]["score"] for r in runs]
        reductions = [1 - r["result"]["macs"] / r["original"]["macs"] for r in runs]
        steps = [sum(i["steps"] for i in r["iterations"]) for r in runs]
        every = ", ".join(f"{s:.4f}" for s in scores)
        print(
            f"{name:10} −{statistics.mean(reductions):.1%} MACs, {statistics.mean(steps):.0f} steps, "
            f"{runs[0]['metric']} {statistics.mean(scores):.4f} on average ({every}); "
            f"original {runs[0]['original']['score']:.4f}"
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("recipe", type=Path, nargs="?", default=HERE.parent / "examples" / "mnist.toml")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("out/iterative"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
