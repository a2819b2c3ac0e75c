"""Figures of a run for TensorBoard and MLflow, as its steps end.

The events of the run are handed on; each library is only loaded for a recipe that names it. A step that was
done before is not recorded again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from onnxprune.app.recipe import Recipe
from onnxprune.app.runner.run_forecast import kind_of
from onnxprune.errors import UsageError

Facts: TypeAlias = dict[str, Any]
Figure: TypeAlias = tuple[str, float, int]
"""Name, value, and the iteration or epoch it belongs to."""

_OF_KIND = {
    "baseline": ("score", "macs", "params", "size_bytes"),
    "prune": ("macs", "params", "channels"),
    "score": ("score",),
    "transform": ("score", "macs", "params", "size_bytes", "max_rel_error"),
}


class Tracker(Protocol):
    """A destination of figures."""

    name: str

    def keep(self, figure: Figure) -> None:
        """Keep one figure."""

    def close(self) -> None:
        """Write out all pending figures."""


@dataclass
class Tracking:
    """Reads figures from the events of a run and hands them to trackers.

    Attributes:
        trackers: Trackers that keep them. One that fails is removed.
        lost: Called with the name of a tracker that has failed, and the reason.
        epochs: Number of recorded epochs of training.
    """

    trackers: list[Tracker]
    lost: Callable[[str, str], None]
    epochs: dict[str, int] = field(default_factory=dict)

    def receive(self, event: Mapping[str, Any]) -> None:
        """Take in an event."""
        if event["event"] == "start":
            return
        figures = list(self._figures(event["step"], event["facts"]))
        for tracker in list(self.trackers) if event["event"] == "done" else ():
            try:
                for figure in figures:
                    tracker.keep(figure)
            except Exception as error:  # no failure of a server or a disk may end a run
                self.trackers.remove(tracker)
                self.lost(tracker.name, f"{type(error).__name__}: {error}")

    def _figures(self, step: str, facts: Facts) -> Iterator[Figure]:
        place, kind = step.rpartition("-")[0], kind_of(step)
        number = int(place) if place.isdigit() else 0
        prefix = "" if place.isdigit() or kind == "baseline" else f"{place.replace('-', '_') or 'dense'}/"
        for name in _OF_KIND.get(kind, ()):
            yield f"{prefix}{name}", float(facts[name]), number
        for loss in facts.get("losses", ()):
            self.epochs[prefix] = self.epochs.get(prefix, 0) + 1
            yield f"{prefix}loss", float(loss), self.epochs[prefix]
        for model, times in facts.get("models", {}).items():
            yield f"latency_ms/{model}", float(times["latency_ms"]), 0


@contextlib.contextmanager
def tracking(
    recipe: Recipe, header: Facts, lost: Callable[[str, str], None]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Open the trackers of a recipe, for as long as the block runs.

    Args:
        recipe: Recipe whose section ``log`` names the trackers.
        header: Header of the work folder's state: it keeps the run of MLflow's that is gone on with.
        lost: Called with the name of a tracker that has failed, and the reason.

    Yields:
        Listener for the events of the run.

    Raises:
        UsageError: A library is missing, or there is nothing to write to.
    """
    opened: list[Tracker] = []
    with contextlib.ExitStack() as stack:
        if recipe.log.tensorboard is not None:
            opened.append(_TensorBoard(recipe.log.tensorboard))
            stack.callback(opened[-1].close)
        if recipe.log.mlflow is not None:
            opened.append(_MLflow(recipe, header))
            stack.callback(opened[-1].close)
        yield Tracking(opened, lost).receive


class _TensorBoard:
    """Event files in a folder."""

    name = "tensorboard"

    def __init__(self, folder: str) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as missing:
            raise _missing("tensorboardX", "tensorboard") from missing
        try:
            self._writer = SummaryWriter(folder)
        except OSError as error:
            raise UsageError(f"cannot write to {folder}: {error.strerror}", "see log.tensorboard") from error

    def keep(self, figure: Figure) -> None:
        name, value, number = figure
        self._writer.add_scalar(name, value, number)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _MLflow:
    """One run on a tracking server; resumed where the work folder names it."""

    name = "mlflow"

    def __init__(self, recipe: Recipe, header: Facts) -> None:
        try:
            from mlflow import MlflowClient
        except ImportError as missing:
            raise _missing("mlflow", "mlflow") from missing
        try:
            self._client = MlflowClient(tracking_uri=recipe.log.mlflow)
            self._run = header.get("mlflow_run") or self._begin(recipe)
            header["mlflow_run"] = self._run
        except Exception as error:
            raise UsageError(f"MLflow refuses {recipe.log.mlflow}: {error}", "see log.mlflow") from error

    def _begin(self, recipe: Recipe) -> str:
        found = self._client.get_experiment_by_name(recipe.log.experiment)
        where = found.experiment_id if found else self._client.create_experiment(recipe.log.experiment)
        run = str(self._client.create_run(where, run_name=Path(str(recipe.folder)).name).info.run_id)
        for name, value in _flat(recipe.model_dump(mode="json")):
            self._client.log_param(run, name, value)
        return run

    def keep(self, figure: Figure) -> None:
        name, value, number = figure
        self._client.log_metric(self._run, name, value, step=number)

    def close(self) -> None:
        with contextlib.suppress(Exception):  # the run is over, and its result does not depend on a server
            self._client.set_terminated(self._run)


def _flat(table: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys of nested tables: ``finetune.epochs``."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{under}{name}.")
        elif value is not None:
            yield f"{under}{name}", value


def _missing(library: str, extra: str) -> UsageError:
    return UsageError(
        f"log.{extra} needs a package that is not installed: {library}",
        f'install it with: pip install "onnxprune[{extra}]"',
    )
