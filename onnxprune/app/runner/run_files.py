"""The files and options that the steps of a run share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from onnxprune.app.recipe import Recipe
from onnxprune.app.runner.journal import Facts, Journal, sha256
from onnxprune.app.runner.recipe_data import RecipeData
from onnxprune.decisions.channels.dense_interface import same_interface
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.decisions.plan import Analysis
from onnxprune.ir import Model, load, sized
from onnxprune.ir.output import write_model
from onnxprune.passes.base import Pass, PassResult
from onnxprune.runtime.execution import ExecutionConfig, current

DataName: TypeAlias = Literal["test", "val"]


@dataclass(frozen=True)
class RunFiles:
    """The folder of one recipe, its data, and the files that its rounds start from.

    Attributes:
        recipe: The recipe.
        journal: The folder.
        material: The data.
        start: The file that all rounds begin with, where that is not the original: its rotated form, with
            layers split where the recipe asks for it.
        rotated_file: The rotated form of the original, if that is pruned.
    """

    recipe: Recipe
    journal: Journal
    material: RecipeData
    start: str = ""
    rotated_file: str = ""

    def _apply(self, step: Pass, model: str, file: str) -> Facts:
        """Run a pass from one file of the folder to another."""
        return self._written(step(self._load(model)), file)

    def _written(self, result: PassResult, file: str) -> Facts:
        """Write the result of a pass into the folder."""
        plan = stored_plan(result.model)
        shapes = plan.input_shapes if plan else self._sized(result.model).sizes
        place = self.journal.path(file)
        fits = same_interface(self.material.original, result.model)
        how: Facts = {"shapes": shapes or None, "data": self.material.dataset("calibration")} if fits else {}
        return result.facts | {"size_bytes": write_model(result.model, place, **how)}

    def _sized(self, model: Model) -> Model:
        return sized(model, self.recipe.shapes, self.recipe.dims)

    def _threads(self, of: str) -> int:
        """Return the threads to make a plan with: for a latency budget, those of the latency measurement."""
        return (self.recipe.bench.threads if of == "latency" else None) or self.material.threads

    @property
    def _table(self) -> Path:
        """The file of the device's figures, so that no figure is measured twice."""
        bench = self.recipe.bench
        how = {"backend": bench.backend, "threads": self._threads("latency")} | self._timed_on()
        return Path(bench.table) if bench.table else self.journal.path(f"latency-{short_digest(how)}.json")

    def _timing(self, of: str) -> dict[str, Any]:
        """Return the options of `Prune` for the measurement of latency."""
        bench = self.recipe.bench
        if of != "latency" or bench.backend is None:
            return {}
        return {"latency_backend": bench.backend, "latency_timeout": bench.timeout}

    def _timed_on(self) -> dict[str, Any]:
        """Return the identity of the provider that models are timed on, where that is not the default one."""
        return {} if self.recipe.bench.backend else provider_identity()

    def _analysis(self, file: str | None) -> Analysis | None:
        if file is None:
            return None
        return Analysis.from_json(self.journal.path(file).read_text("utf-8"), file)

    def _load(self, file: str) -> Model:
        return load(self.journal.path(file))

    def _digest(self, file: str) -> str:
        return sha256(self.journal.path(file))

    def _original(self) -> dict[str, Any]:
        return {"original": sha256(self.recipe.model)}

    def _reference(self) -> dict[str, Any]:
        """Return the identity of the original, and of the files that pruning starts from."""
        files = {"rotated": self.rotated_file, "start": self.start if self.start != self.rotated_file else ""}
        return self._original() | {name: self._digest(file) for name, file in files.items() if file}

    def _whole(self) -> Model:
        """Return the model before pruning, in the basis that was pruned, with the layers that are split."""
        return self._load(self.start) if self.start else self.material.original

    def _exact(self) -> Model:
        """Return the original in the basis that was pruned."""
        return self._load(self.rotated_file) if self.rotated_file else self.material.original

    def _teacher(self) -> dict[str, Any]:
        """Return the original where scores depend on it."""
        return self._original() if self.material.metric.uses_baseline else {}

    def finals(self) -> DataName:
        """Return the data by which the result is judged."""
        return "test" if self.recipe.data.test else "val"

    def _groups(self) -> dict[str, Any]:
        """Return the options of the passes that decide which groups there are."""
        options = self.recipe.prune
        chosen = {name: getattr(options, name) for name in ("exclude", "only", "allow_inexact")}
        sizes = {"input_shapes": self.recipe.shapes, "dims": self.recipe.dims}
        return chosen | sizes | {"open_io": self.recipe.open_io}


def provider_identity() -> dict[str, Any]:
    """Return the identity of the provider in use; nothing where it is onnxruntime's own for the processor."""
    config = current()
    return {} if config == ExecutionConfig() else {"provider": config.facts()}


def short_digest(inputs: Mapping[str, Any]) -> str:
    """Return a short digest of the inputs of a step, 12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]
