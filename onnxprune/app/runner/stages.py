"""The steps of a run, from file to file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.analysis.groups.group_symmetry import symmetries
from onnxprune.analysis.groups.reach import staying_axes
from onnxprune.analysis.groups.selection import select_groups
from onnxprune.app.runner.dense_latency import dense_form, latencies, whole_input_form
from onnxprune.app.runner.journal import Entry, Facts, sha256
from onnxprune.app.runner.run_files import DataName, RunFiles, short_digest
from onnxprune.app.runner.time_limits import TimeLimits
from onnxprune.decisions.bases.absorption import FREE
from onnxprune.decisions.channels.dense_interface import same_interface
from onnxprune.decisions.channels.kept_rows import id_map
from onnxprune.decisions.channels.special_tokens import special_rows
from onnxprune.decisions.plan import PLAN_KEY, Plan
from onnxprune.errors import NotShownError, PlanError
from onnxprune.evaluate.metrics import get_metric
from onnxprune.ir import Model, find_vocabulary, load
from onnxprune.ir.output import kept_unverified, stored_bytes, write_text
from onnxprune.passes.ana import Ana
from onnxprune.passes.base import PassResult
from onnxprune.passes.basis_choice import judged
from onnxprune.passes.factorize import Factorize
from onnxprune.passes.finetune import Finetune
from onnxprune.passes.keep_rows import KeepRows, read_rows
from onnxprune.passes.plan_order import PlanOrder
from onnxprune.passes.prune import Prune
from onnxprune.passes.recover import Recover
from onnxprune.passes.rotate import DEFAULT_SAMPLES as ROTATION_SAMPLES
from onnxprune.passes.rotate import Rotate
from onnxprune.passes.sparsify import Sparsify
from onnxprune.passes.transform import Transform
from onnxprune.train.checkpoint import remove
from onnxprune.train.losses import asks_teacher

DENSE, ROTATED, FACTORIZED = "dense.onnx", "rotated.onnx", "factorized.onnx"
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
class Stages(RunFiles):
    """The steps of one recipe, in one folder.

    Attributes:
        reduction: The fraction of the budget's cost that is gone at the start.
        limits: Seconds that steps may take; no part of their inputs.
    """

    reduction: float = 0.0
    limits: TimeLimits = field(default_factory=TimeLimits)

    def baseline(self) -> Entry:
        """Judge the original, count its costs, list the groups and the blocked axes."""
        inputs = self._original() | self._groups() | self.material.judged_by()
        return self.journal.step("baseline", inputs, (), self._baseline)

    def rotated(self) -> Stages:
        """Return the same steps, of the rotated model where its plan is better or the recipe asks for it."""
        mode, step = self.recipe.prune.rotate, self._rotation()
        inputs = self._original() | self._groups() | self.material.inputs("calibration")
        inputs |= {"samples": step.samples, "threads": self.material.threads, "seed": self.recipe.seed}
        if mode == "auto" and not self._better_rotated(step, inputs):
            return self
        if mode == "never":
            return self

        def work() -> Facts:
            return self._apply(step, self.recipe.model, ROTATED)

        self.journal.step("rotate", inputs, (ROTATED,), work)
        return replace(self, start=ROTATED, rotated_file=ROTATED)

    def _better_rotated(self, step: Rotate, inputs: Facts) -> bool:
        """Compare the plans of the original and of its rotated form, each with its repair."""
        budget, options = self.recipe.budget, self.recipe.prune
        if budget.of == "latency" or not self.recipe.recover.enabled:
            return False
        if not can_rotate(self._sized(self.material.original), options.exclude, options.only):
            return False
        how = options.model_dump(exclude={"exclude", "only", "allow_inexact", "rotate", "strategy"})
        how |= self._groups() | {f"reduce_{budget.of}": budget.target, "metric": self.recipe.ana.metric}
        how |= {"samples": step.samples, "seed": self.recipe.seed, "threads": self.material.threads}

        def work() -> Facts:
            prune = Prune(data=self.material.dataset("calibration"), rotate="never", **how)
            try:
                return self._compared(step, prune)
            except PlanError as error:
                return {"kept": False, "reason": error.message}

        return bool(self.journal.step("basis", inputs | {"prune": how}, (), work).facts["kept"])

    def factorized(self) -> Stages:
        """Return the same steps, of the model with layers split, if the recipe asks for it.

        Raises:
            PlanError: The splits alone remove as much as the budget.
        """
        options, budget = self.recipe.factorize, self.recipe.budget
        if not options.enabled:
            return self
        how = options.model_dump(exclude={"enabled"}) | {"seed": self.recipe.seed}
        how |= {"threads": self.material.threads, "metric": self.recipe.ana.metric}
        how |= {"input_shapes": self.recipe.shapes, "dims": self.recipe.dims}
        inputs = self._reference() | {"factorize": how} | self.material.inputs("calibration")

        def work() -> Facts:
            step = Factorize(data=self.material.dataset("calibration"), **how)
            made = step(self._whole())
            baseline = cost_of(find_channels(self._sized(self.material.original))).figures()
            made.model.set_metadata(PLAN_KEY, Plan.of_nothing(baseline).to_json())
            return self._written(made, FACTORIZED)

        facts = self.journal.step("factorize", inputs, (FACTORIZED,), work).facts
        reduction = facts.get(f"{budget.of}_reduction")
        if reduction is None:
            raise PlanError(
                f"the {budget.of} that lower ranks remove are not known",
                "give sizes with [dims], or start over",
            )
        if reduction >= budget.target:
            raise PlanError(
                f"lower ranks alone remove {reduction:.1%} of the {budget.of}, and the budget is"
                f" {budget.target:.1%}",
                "ask for less in [factorize], or for more in [budget]",
            )
        return replace(self, start=FACTORIZED, reduction=reduction)

    def _compared(self, step: Rotate, prune: Prune) -> Facts:
        """Return the comparison of the plans of the original and of its rotated form."""
        given = PassResult(self._load(self.recipe.model), False)
        rotated = replace(step, allow_unchanged=True)(given)
        if not rotated.modified:
            return {"kept": False, "reason": "no axis can be rotated"}
        order = PlanOrder(get_metric(self.recipe.ana.metric))
        return dict(judged(given, rotated, prune, order).facts["rotation"])

    def _rotation(self) -> Rotate:
        groups = {k: found for k, found in self._groups().items() if k not in ("allow_inexact", "open_io")}
        samples = min(self.recipe.ana.samples or ROTATION_SAMPLES, ROTATION_SAMPLES)
        data = self.material.dataset("calibration")
        how: dict[str, Any] = {"seed": self.recipe.seed, "threads": self.material.threads, **groups}
        return Rotate(data=data, samples=samples, **how)

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

    def _keep_rows(self) -> KeepRows:
        """Return the step that keeps rows of the vocabulary; special tokens are those beside the original."""
        options, original = self.recipe.vocabulary, self.material.original
        listed = set(read_rows(Path(options.keep_rows))) if options.keep_rows else set()
        counts = options.most is not None or options.min_count is not None
        special = special_rows(original, find_vocabulary(original).rows) if counts else []
        data = self.material.dataset("calibration") if counts else None
        return KeepRows(sorted(listed | set(special)), data, options.most, options.min_count)

    def transform(self, model: str, judged: str) -> Entry:
        """Make the best iteration dense, and judge the result.

        Args:
            model: The sparse model.
            judged: The one with all rows of its vocabulary, which the samples fit.
        """
        inputs = {"model": self._digest(model), "seed": self.recipe.seed, "target": DENSE}
        inputs |= self._teacher() | self.material.judged_by(self.finals())
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
        inputs = self._original() | {"models": digests, "bench": options.model_dump()}

        def work() -> Facts:
            original = self.material.original
            dense = {n: dense_form(self._load(f)) for n, f in models.items()}
            for name, made in dense.items():
                if not same_interface(original, made):
                    dense[name] = whole_input_form(self._load(result))
            return latencies({"original": original, **dense}, options)

        return self.journal.step("bench", inputs, (), work)

    def _baseline(self) -> Facts:
        model, options = self.material.original, self.recipe.prune
        if self.recipe.vocabulary.enabled:
            self._keep_rows()(self._sized(model))  # a refusal comes before the first iteration
        channels = find_channels(self._sized(model), allow_inexact=options.allow_inexact)
        chosen = select_groups(channels, options.exclude, options.only)
        return {
            "metric": self.recipe.metric,
            "higher_is_better": self.material.metric.higher_is_better,
            "score": self.material.score(model),
            **cost_of(channels).figures(),
            "size_bytes": stored_bytes(self.recipe.model),
            "groups": {g.name: g.size for g in chosen},
            "spared": {g.name: g.size for g in channels.groups if g not in chosen and not g.optional},
            "blocked": _blocked(channels),
        }


def can_rotate(model: Model, exclude: Sequence[str] = (), only: Sequence[str] = ()) -> bool:
    """Return whether any axis of a model can be rotated freely.

    Args:
        model: The model, its shapes known.
        exclude: Globs of groups, nodes or tensors to leave alone.
        only: The same of those to work on.
    """
    channels = find_channels(model, allow_inexact=True)
    chosen = {g.name for g in select_groups(channels, exclude, only, optional=True)}
    return any(axis.group.name in chosen and axis.opened in FREE for axis in symmetries(channels))


def _blocked(channels: Channels) -> list[dict[str, Any]]:
    """List why axes cannot be pruned, and which axes it is, one entry a reason."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for axis in staying_axes(channels):
        for b in axis.reasons:
            found.setdefault((b.node, b.operator, b.reason), []).append(f"{axis.tensor}[{axis.axis}]")
    return [{"node": n, "operator": o, "reason": r, "axes": a} for (n, o, r), a in found.items()]


def _repaired(at: Round) -> str:
    """Return the path of the repaired model of a round, within the work folder."""
    return f"{at.folder}/recovered.onnx"
