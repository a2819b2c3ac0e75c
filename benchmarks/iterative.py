"""Prune in several iterations, or all at once? The same reduction, the same number of training steps.

    python benchmarks/iterative.py [RECIPE] [--seeds N] [--folder FOLDER] [--set KEY=VALUE]…

One run a seed of the recipe with ``compare.one_shot``, which also prunes at once and trains for as many
epochs as all iterations together. The seed decides the order of the samples. Finished steps are not repeated.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.app.cli.run import show_event
from onnxprune.app.console import show_progress
from onnxprune.app.recipe import read_recipe
from onnxprune.app.report import collect, render
from onnxprune.app.report.page import rivals
from onnxprune.app.runner import run

RECIPE = Path(__file__).resolve().parent.parent / "examples" / "mnist.toml"


def main() -> None:
    options = parse()
    found = []
    for seed in range(options.seeds):
        always = [f"seed={seed}", "compare.one_shot=true", f"folder={(options.folder / str(seed)).resolve()}"]
        recipe = read_recipe(options.recipe, [*options.overrides, *always])
        with show_progress():
            run(recipe, show_event)
        facts = collect(Path(str(recipe.folder)))
        (options.folder / f"report-{seed}.html").write_text(render(facts), "utf-8")
        found.append(facts)
    show(found)


def show(runs: Sequence[Mapping[str, Any]]) -> None:
    """Print the means over the seeds, and by how much iterating is ahead: the mean and its standard error."""
    original = runs[0]["original"]
    print(f"original: {runs[0]['metric']} {original['score']:.4f}")
    for ways in zip(*(rivals(facts, None) for facts in runs), strict=True):
        scores = [way["score"] for way in ways]
        reduction = 1 - statistics.mean(way["macs"] for way in ways) / original["macs"]
        steps, score = statistics.mean(way["steps"] for way in ways), statistics.mean(scores)
        every = ", ".join(f"{s:.4f}" for s in scores)
        print(f"{ways[0]['name']:14} −{reduction:.1%} MACs, {steps:.0f} steps: {score:.4f} ({every})")
    ahead = [facts["result"]["score"] - facts["one_shot"]["score"] for facts in runs]
    error = statistics.stdev(ahead) / len(ahead) ** 0.5 if len(ahead) > 1 else float("nan")
    print(f"iterations are ahead by {statistics.mean(ahead):+.4f} ± {error:.4f}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("recipe", type=Path, nargs="?", default=RECIPE)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("out/iterative"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    main()
