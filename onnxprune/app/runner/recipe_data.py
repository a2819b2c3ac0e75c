"""Data and metrics of a recipe, and their digests."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.app.recipe import Recipe
from onnxprune.app.runner.journal import sha256
from onnxprune.errors import DataError
from onnxprune.evaluate.data import GIVE_DATA, Dataset, open_data
from onnxprune.evaluate.metrics import (
    Baseline,
    Metric,
    baseline_outputs,
    evaluate,
    get_metric,
    sample_scores,
)
from onnxprune.ir import Model
from onnxprune.runtime import Session
from onnxprune.support.callables import is_reference, load_callable
from onnxprune.support.sample_files import TEXTS, TOKENIZER, data_files_of


def identity(spec: str) -> dict[str, str]:
    """Return the identity of data, or of a metric.

    Of a file that is its content, of a folder the content of its samples. The samples of a callable may
    differ from call to call; of it the file counts that it is written in.

    Raises:
        DataError: There is no such data.
    """
    path = Path(spec)
    if path.is_dir():
        return {file.relative_to(path).as_posix(): sha256(file) for file in data_files_of(path)}
    if path.is_file():
        beside = path.with_name(TOKENIZER)
        known = path.suffix.lower() in TEXTS and beside.is_file()
        return {"content": sha256(path)} | ({"tokenizer": sha256(beside)} if known else {})
    if not is_reference(spec):
        raise DataError(f"there is no data at {spec}", GIVE_DATA)
    load_callable(spec)
    source = getattr(sys.modules[spec.partition(":")[0]], "__file__", None)
    return {"callable": spec, "source": sha256(source) if source else "unknown"}


@dataclass(frozen=True)
class RecipeData:
    """Training data, validation data and metric of a recipe.

    Attributes:
        recipe: The recipe.
        original: The model before pruning.
        threads: Threads to compute with.
    """

    recipe: Recipe
    original: Model
    threads: int

    def inputs(self, *names: str) -> dict[str, Any]:
        """Return the identities of some of the data sets."""
        chosen = {name: identity(self.spec(name)) for name in names}
        held = self.recipe.data.hold_back
        parts: dict[str, Any] = {}
        if held is not None:
            parts = {"hold_back": held, "seed": self.recipe.seed, "parts": sorted(names)}
        few = self.recipe.data.val_limit
        parts |= {"val_limit": few, "seed": self.recipe.seed} if few and "val" in names else {}
        return {"data": chosen, "limit": self.recipe.data.limit, **parts}

    def judged_by(self, name: str = "val") -> dict[str, Any]:
        """Return the values that decide a score, beside the model judged."""
        metric = self.recipe.metric
        own = identity(metric) if is_reference(metric) else metric
        return self.inputs(name) | {"metric": own, "threads": self.threads}

    def spec(self, name: str) -> str:
        """Return where a data set comes from."""
        data = self.recipe.data
        found = {"train": data.train, "val": data.val, "test": data.test}
        return found.get(name) or (data.calibration or data.train)

    def dataset(self, name: str) -> Dataset:
        """Open a data set.

        Args:
            name: ``train``, ``val``, ``calibration`` or ``test``.
        """
        whole = open_data(self.spec(name), self._session.inputs, self._session.outputs)
        limit = self.recipe.data.limit
        taken = whole if limit is None else whole.take(limit)
        part = taken if self.spec(name) != self.recipe.data.train else self._part(taken, name)
        few = self.recipe.data.val_limit
        return self._drawn(part, few) if few and name == "val" else part

    def _drawn(self, data: Dataset, few: int) -> Dataset:
        """Return some of the samples, drawn at random: files often list one class after the other."""
        ranks = np.random.default_rng(self.recipe.seed).permutation(data.count())
        return data.chosen(ranks < few) if few < len(ranks) else data

    def _part(self, data: Dataset, name: str) -> Dataset:
        """Return the part of the training data that judges, or the one that does not."""
        held, count = self.recipe.data.hold_back, data.count()
        if held is None:
            return data
        if count < 2:
            message = f"there is one sample in {self.spec('train')}: none is left to train on, if it judges"
            raise DataError(message, "give more samples, or other data to judge by with `val`")
        ranks = np.random.default_rng(self.recipe.seed).permutation(count)
        judging = ranks < min(max(1, round(held * count)), count - 1)
        return data.chosen(judging if name == "val" else ~judging)

    def score(self, model: Model, name: str = "val") -> float:
        """Judge a model by the recipe's metric."""
        session, data = Session(model.proto, threads=self.threads), self.dataset(name)
        return evaluate(session, data, self.metric, baseline=self._baseline(data))

    def noise(self, model: Model, name: str = "val") -> float:
        """Return the standard error of how much better or worse a model is than the original.

        The two are compared sample by sample, so that the difficulty of a sample cancels. 0 for a metric that
        judges all samples together.
        """
        data = self.dataset(name)
        baseline = self._baseline(data)
        sessions = (Session(model.proto, threads=self.threads), self._session)
        ours, theirs = (sample_scores(s, data, self.metric, baseline=baseline) for s in sessions)
        if ours is None or theirs is None or len(ours) < 2:
            return 0.0
        return float(np.std(ours - theirs, ddof=1) / np.sqrt(len(ours)))

    @cached_property
    def metric(self) -> Metric:
        """The metric."""
        return get_metric(self.recipe.metric)

    def _baseline(self, data: Dataset) -> Baseline | None:
        return baseline_outputs(self._session, data) if self.metric.uses_baseline else None

    @cached_property
    def _session(self) -> Session:
        return Session(self.original.proto, threads=self.threads)
