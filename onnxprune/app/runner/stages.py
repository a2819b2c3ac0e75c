"""The steps of the rounds of a run, from file to file, and those after them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxprune.app.runner.dense_latency import dense_form, latencies, whole_input_form
from onnxprune.app.runner.journal import Entry, Facts, sha256
from onnxprune.app.runner.run_files import DataName, provider_identity, short_digest
from onnxprune.app.runner.start_stages import StartStages
from onnxprune.app.runner.time_limits import TimeLimits
from onnxprune.decisions.channels.dense_interface import same_interface
from onnxprune.decisions.channels.kept_rows import id_map
from onnxprune.errors import NotShownError
from onnxprune.ir import load
from onnxprune.ir.output import kept_unverified, stored_bytes, write_text
from onnxprune.passes.ana import Ana
from onnxprune.passes.finetune import Finetune
from onnxprune.passes.prune import Prune
from onnxprune.passes.recover import Recover
from onnxprune.passes.sparsify import Sparsify
from onnxprune.passes.transform import Transform
from onnxprune.train.checkpoint import remove
from onnxprune.train.losses import asks_teacher

DENSE = "dense.onnx"
ROWS = "rows/sparse.onnx"
IDS = "dense.ids.json"
_ANALYSIS = "analysis.json"
_OF_PLANS = ("metric", "score", "score_before")
"""Facts of a repair that compare plans."""


@dataclass(frozen=True)
class Round:
    """One round of pruning and training.

    Attributes:
        name: Prefix of the names of its steps.
        folder: Folder of its files, within the work folder.
    """

    name: str
    folder: str

    @classmethod
    def iteration(cls, number: int) -> Round:
        """Return a round of the loop, counted from 1."""
        return cls(str(number), f"iteration-{number}")


ONE_SHOT = Round("one-shot", "one-shot")
PATTERN = Round("pattern", "pattern")
"""Round after the last iteration: zeros within weights."""
FIRST_ANALYSIS = f"{Round.iteration(1).folder}/{_ANALYSIS}"
"""Path of the analysis of the original, within the work folder."""


@dataclass(frozen=True)
class Stages(StartStages):
    """The steps of one recipe, in one folder.

    Attributes:
        limits: Seconds that steps may take; no part of their inputs.
    """

    limits: TimeLimits = field(default_factory=TimeLimits)

    def ana(self, at: Round, model: str) -> str:
        """Measure how sensitive each group is; return the file of the analysis."""
        options, file = self.recipe.ana, f"{at.folder}/{_ANALYSIS}"
        pruning = {"criterion": self.recipe.prune.criterion, "seed": self.recipe.seed}
        pruning |= {"threads": self.material.threads}
        inputs = {"model": self._digest(model), "ana": options.model_dump(exclude={"enabled", "repeat"})}
        inputs |= self._groups() | self.material.inputs("calibration") | pruning

        def work() -> Facts:
            data = self.material.dataset("calibration")
            place = self.journal.path(file)
            how: dict[str, Any] = {
                **options.model_dump(exclude={"enabled", "repeat"}),
                **self._groups(),
                **pruning,
            }
            step = Ana(data=data, file=place, resume=place.exists(), force=True, **how)
            return step(load(self.journal.path(model))).facts

        self.journal.step(f"{at.name}-ana", inputs, (file,), work)
        return file

    def prune(self, at: Round, model: str, analysis: str | None, reduction: float) -> tuple[str, Entry]:
        """Zero channels until the reduction is reached; return the sparse model's file."""
        file, options, of = f"{at.folder}/sparse.onnx", self.recipe.prune, self.recipe.budget.of
        how = options.model_dump(exclude={"exclude", "only", "allow_inexact"}) | self._groups()
        how |= {f"reduce_{of}": reduction, "seed": self.recipe.seed, "threads": self._threads(of)}
        repair = self._repair_of_plan
        how |= {"recover": repair, "rotate": "never"}
        how |= self._timing(of)
        inputs = {"model": self._digest(model), "prune": how}
        inputs |= {"analysis": self._digest(analysis)} if analysis else {}
        inputs |= self._timed_on() if of == "latency" else {}
        if options.looks_at_data:
            how |= {"metric": self.recipe.ana.metric, "samples": self.recipe.ana.samples}
            inputs |= {"prune": how} | self.material.inputs("calibration")

        def work() -> Facts:
            data = self.material.dataset("calibration") if options.looks_at_data else None
            table = self._table if of == "latency" or self.recipe.bench.table else None
            also = {"latency_table": table, "unrepaired": bool(repair), **how}
            made = Prune(analysis=self._analysis(analysis), data=data, **also)(self._load(model))
            if made.unrepaired is None:
                return self._written(made, file)
            if _repaired(at) in files:
                self._written(made, _repaired(at))
            return self._written(replace(made, model=made.unrepaired), file)

        known = repair and model in (self.start, self.recipe.model)  # the model that repairs aim at
        files = (file, _repaired(at)) if known else (file,)
        return file, self.journal.step(f"{at.name}-prune", inputs, files, work)

    @property
    def _repair_of_plan(self) -> tuple[str, ...]:
        """The methods of repair that plans are compared after; none where `recover` has other samples."""
        repair = self.recipe.recover
        same = repair.enabled and repair.samples == self.recipe.ana.samples
        return tuple(repair.methods) if same and self.recipe.prune.looks_at_data else ()

    def recover(self, at: Round, model: str) -> str:
        """Repair the model in closed form; return its file."""
        file, how = _repaired(at), self.recipe.recover.model_dump(exclude={"enabled"})
        how |= {"seed": self.recipe.seed, "threads": self.material.threads}
        inputs = {"model": self._digest(model), "recover": how} | self._reference()
        inputs |= self.material.inputs("calibration")

        def work() -> Facts:
            pruned = self.journal.entries[f"{at.name}-prune"]
            if file in pruned.files:
                facts = {k: v for k, v in pruned.facts["recovery"].items() if k not in _OF_PLANS}
                return facts | {"size_bytes": stored_bytes(self.journal.path(file))}
            data = self.material.dataset("calibration")
            return self._apply(Recover(self._whole(), data, **how), model, file)

        self.journal.step(f"{at.name}-recover", inputs, (file,), work)
        return file

    def sparsify(self, at: Round, model: str) -> tuple[str, Entry]:
        """Set elements of weights to zero by a pattern, where any can follow it; return the model's file."""
        options, file = self.recipe.sparsify, f"{at.folder}/sparse.onnx"
        how = options.model_dump(exclude={"enabled", "epochs"})
        how |= {"seed": self.recipe.seed, "threads": self.material.threads}
        inputs = {"model": self._digest(model), "sparsify": how} | self.material.inputs("calibration")

        def work() -> Facts:
            data = self.material.dataset("calibration")
            return self._apply(Sparsify(data=data, allow_unchanged=True, **how), model, file)

        return file, self.journal.step(f"{at.name}-sparsify", inputs, (file,), work)

    def finetune(self, at: Round, model: str, epochs: int, final: bool) -> str:
        """Train; return the tuned model's file.

        Args:
            at: The round.
            model: The file to train.
            epochs: Passes over the data.
            final: True if nothing will be pruned after it.
        """
        options, file = self.recipe.finetune, f"{at.folder}/tuned.onnx"
        how = options.model_dump(exclude={"epochs", "last_epochs", "early_schedule", "keep"})
        how |= {"epochs": epochs}
        how |= {} if final or not options.early_schedule else {"schedule": options.early_schedule}
        how |= {"seed": self.recipe.seed, "threads": self.material.threads}
        best, distilling = options.keep == "best", asks_teacher(options.loss) is not False
        how |= {} if best else {"patience": None}
        inputs = {"model": self._digest(model), "finetune": how | {"keep": options.keep}}
        inputs |= self.material.judged_by() if best else {}
        inputs |= self.material.inputs("train", *(["val"] if best else [])) | self._reference()
        checkpoint = self.journal.path(f"{file}.{short_digest(inputs)}.checkpoint")

        def work() -> Facts:
            step = Finetune(
                data=self.material.dataset("train"),
                val=self.material.dataset("val") if best else None,
                metric=self.recipe.metric if best else None,
                teacher=self._exact() if distilling else None,
                original=self._whole(),
                checkpoint=checkpoint,
                resume=True,
                minutes=self.limits.train_s / 60 if self.limits.train_s < math.inf else None,
                **how,
            )
            facts = self._apply(step, model, file)
            for finished in checkpoint.parent.glob(f"{Path(file).name}.*.checkpoint"):
                remove(finished)
            return facts

        self.journal.step(f"{at.name}-finetune", inputs, (file,), work)
        return file

    def score(self, at: Round, models: Sequence[str], on: DataName = "val") -> tuple[str, float]:
        """Judge the result of a round.

        Args:
            at: The round.
            models: The files it has made, each from the one before; the one that is best on the validation
                data is its result, of equals the last.
            on: The data by which the result is judged.

        Returns:
            The file of the result, and its score.
        """
        inputs: dict[str, Any] = {"models": [self._digest(model) for model in models]}
        inputs |= self.material.judged_by(on) | self._teacher()
        inputs |= {"chosen_by": self.material.judged_by()} if len(models) > 1 else {}

        def work() -> Facts:
            material, facts = self.material, {"metric": self.recipe.metric}
            if len(models) == 1:
                return facts | {"model": models[0], "score": material.score(self._load(models[0]), on)}
            scores = {model: material.score(self._load(model), "val") for model in models}
            best = max(reversed(models), key=lambda model: material.metric.rank(scores[model]))
            score = scores[best] if on == "val" else material.score(self._load(best), on)
            stages = {Path(model).stem: value for model, value in scores.items()}
            return facts | {"model": best, "score": score, "stages": stages}

        facts = self.journal.step(f"{at.name}-score", inputs, (), work).facts
        return str(facts["model"]), float(facts["score"])

    def noise(self, at: Round, model: str) -> float:
        """Return how far off the score of a round may be, compared with the original's."""
        inputs = {"model": self._digest(model)} | self.material.judged_by() | self._original()

        def work() -> Facts:
            return {"standard_error": self.material.noise(self._load(model))}

        return float(self.journal.step(f"{at.name}-noise", inputs, (), work).facts["standard_error"])

    def rows(self, model: str) -> str:
        """Zero the rows of the vocabulary that do not stay; return the model's file."""
        options, file = self.recipe.vocabulary, ROWS
        inputs = {"model": self._digest(model), "vocabulary": options.model_dump(exclude={"keep_rows"})}
        inputs |= {"rows": sha256(options.keep_rows)} if options.keep_rows else {}
        inputs |= self.material.inputs("calibration")

        def work() -> Facts:
            return self._apply(self._keep_rows(), model, file)

        self.journal.step("rows", inputs, (file,), work)
        return file

    def transform(self, model: str, judged: str) -> Entry:
        """Make the best iteration dense, and judge the result.

        Args:
            model: The sparse model.
            judged: The one with all rows of its vocabulary, which the samples fit.
        """
        inputs = {"model": self._digest(model), "seed": self.recipe.seed, "target": DENSE}
        inputs |= self._teacher() | self.material.judged_by(self.finals()) | provider_identity()
        files = (DENSE, IDS) if self.recipe.vocabulary.enabled else (DENSE,)

        def work() -> Facts:
            step = Transform(data=self.material.dataset("val"), seed=self.recipe.seed)
            try:
                facts = self._apply(step, model, DENSE)
            except NotShownError as error:
                raise kept_unverified(error, self.journal.path(DENSE), self.journal.path(model)) from error
            dense, original = self._load(DENSE), self.material.original
            fits = same_interface(original, dense) and model == judged
            dense = dense if fits else dense_form(self._load(judged))
            facts |= self._id_map(model, facts.pop("rows", ()))
            scores = {
                "score": self.material.score(dense, self.finals()),
                "score_before": self.material.score(original, self.finals()),
            }
            return facts | scores | {"metric": self.recipe.metric, "judged_on": self.finals()}

        return self.journal.step("transform", inputs, files, work)

    def _id_map(self, model: str, rows: Sequence[int]) -> Facts:
        """Write down which row of the whole vocabulary each row of the dense model is."""
        if not self.recipe.vocabulary.enabled:
            return {}
        found = id_map(self._load(model), rows)
        write_text(self.journal.path(IDS), json.dumps(found) + "\n")
        return {"id_map": IDS, "kept_rows": len(found["ids"]), "rows_before": found["rows_before"]}

    def bench(self, models: Mapping[str, str], result: str) -> Entry:
        """Measure the latency of the original, of every iteration made dense and of the result, in turn.

        Args:
            models: Files of the folder by their names in the report.
            result: The sparse model that the dense one was made of.
        """
        options = self.recipe.bench
        digests = {name: self._digest(file) for name, file in models.items()}
        inputs = self._original() | {"models": digests, "bench": options.model_dump()} | self._timed_on()

        def work() -> Facts:
            original = self.material.original
            dense = {n: dense_form(self._load(f)) for n, f in models.items()}
            for name, made in dense.items():
                if not same_interface(original, made):
                    dense[name] = whole_input_form(self._load(result))
            return latencies({"original": original, **dense}, options)

        return self.journal.step("bench", inputs, (), work)


def _repaired(at: Round) -> str:
    """Return the path of the repaired model of a round, within the work folder."""
    return f"{at.folder}/recovered.onnx"
