"""The result of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from onnxprune.analysis.inputs.ladder import Shape

Status = Literal["agree", "differ", "not shown"]


@dataclass(frozen=True)
class OutputVerdict:
    """The verdict on one output.

    Attributes:
        name: The output.
        status: Agreement of the two models on it.
        max_rel_error: ``max|a − b| / max|a|``, the worst over all runs.
        max_abs_error: ``max|a − b|``, the worst over all runs.
        allowed: The relative error that passes as rounding.
        reason: The reason why it is not equal, or not shown; empty where it is.
        before: Tensors that were compared as well, because the output saturates or picks from them.
        by: Tensors that prove the output where it cannot: both models compute it from them by the same nodes.
        noise: Relative size of the noise of the network, where it was measured.
    """

    name: str
    status: Status
    max_rel_error: float = 0.0
    max_abs_error: float = 0.0
    allowed: float = 0.0
    reason: str = ""
    before: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    noise: float | None = None

    def facts(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        found: dict[str, Any] = {
            "status": self.status,
            "max_rel_error": self.max_rel_error,
            "max_abs_error": self.max_abs_error,
            "allowed_rel_error": self.allowed,
        }
        found |= {"reason": self.reason} if self.reason else {}
        found |= {"compared_before": list(self.before)} if self.before else {}
        found |= {"shown_by": list(self.by)} if self.by else {}
        return found | ({"noise_rel_error": self.noise} if self.noise is not None else {})


@dataclass(frozen=True)
class Verdict:
    """The agreement of two models.

    Attributes:
        outputs: Output by output.
        runs: Number of inputs the two were run on.
        sizes: The shapes of the inputs that were tried, by input name.
        notes: Changes made in both before they were compared, and tensors that could not be compared.
        reason: The reason why the models differ, or why nothing is shown, where no single output is to blame.
        hint: Input that would show more, in words; empty where nothing is missing.
        exact: True if the models have to agree. They need not where the user let axes be shortened that the
            network normalises over; then a difference is reported and no error.
        differs: True if `reason` is a difference.
        unloadable: True if the runtime loads the first model alone, and that took none of the inputs.
    """

    outputs: tuple[OutputVerdict, ...] = ()
    runs: int = 0
    sizes: Sequence[Mapping[str, Shape]] = ()
    notes: tuple[str, ...] = ()
    reason: str = ""
    hint: str = ""
    exact: bool = True
    differs: bool = False
    unloadable: bool = False

    @property
    def status(self) -> Status:
        """The verdict on all outputs together."""
        found = {o.status for o in self.outputs}
        if self.differs or "differ" in found:
            return "differ"
        return "not shown" if self.reason or "not shown" in found or not found else "agree"

    @property
    def equal(self) -> bool:
        """True if the models are shown to compute the same."""
        return self.status == "agree"

    @property
    def max_rel_error(self) -> float:
        """The largest relative error of all outputs; one judged by its operands counts with their error."""
        return max((o.max_rel_error for o in self.outputs), default=float("inf") if self.differs else 0.0)

    @property
    def max_abs_error(self) -> float:
        """The largest absolute error of all outputs."""
        return max((o.max_abs_error for o in self.outputs), default=float("inf") if self.differs else 0.0)

    @property
    def allowed(self) -> float:
        """The tolerance of the output that comes closest to it."""
        return max(self.outputs, key=_share).allowed if self.outputs else 0.0

    @property
    def explanation(self) -> str:
        """The difference, or the reason why nothing is shown, naming the output."""
        if self.reason:
            return self.reason
        for status in ("differ", "not shown"):
            for output in self.outputs:
                if output.status == status:
                    return f"output '{output.name}': {output.reason}"
        return ""

    def facts(self) -> dict[str, Any]:
        """Return the verdict, ready for JSON."""
        found: dict[str, Any] = {
            "verdict": self.status,
            "equal": self.equal,
            "shown": self.status != "not shown",
            "exact": self.exact,
            "max_rel_error": self.max_rel_error,
            "max_abs_error": self.max_abs_error,
            "allowed_rel_error": self.allowed,
            "runs": self.runs,
            "sizes": [{n: list(s) for n, s in shapes.items()} for shapes in self.sizes],
            "outputs": {o.name: o.facts() for o in self.outputs},
            "notes": list(self.notes),
        }
        found |= {"reason": self.explanation} if self.explanation else {}
        noises = [o.noise for o in self.outputs if o.noise is not None]
        return found | ({"noise_rel_error": max(noises)} if noises else {})


def _share(output: OutputVerdict) -> float:
    """Return how much of its tolerance an output needs."""
    return output.max_rel_error / output.allowed if output.allowed else 0.0
