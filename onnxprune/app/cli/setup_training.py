"""``setup-training``: fetch the training build of onnxruntime, once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxprune.app.cli.conventions import Facts, command

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(facts: Facts) -> RenderableType:
    """Return a line with the folder of the runtime."""
    return f"the training runtime is ready in {facts['folder']}"


@command("setup-training", render)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Folder to install into; by default one folder a Python version, in the user's data folder.",
)
def setup_training(folder: Path | None) -> Facts:
    """Install the training runtime of `finetune` into its own folder, away from the onnxruntime in use."""
    from onnxprune.support.progress import task
    from onnxprune.train import sidecar

    with task("install the training runtime"):
        ready = sidecar.setup_training(folder)
    return {"folder": str(ready), "requirement": sidecar.REQUIREMENT}
