"""Errors with a message and a hint.

Every error carries the fault and, where there is one, a remedy. The command line prints
them as ``error:`` and ``hint:`` and exits with ``exit_code``; a traceback only ever means a bug of ours.

    OnnxpruneError
    ├── UsageError          wrong options or option values (exit code 2)
    ├── ModelError          the ONNX file cannot be read, is not valid, or cannot be run
    │   ├── MixedTypesError     operands of one node have different types
    │   └── LimitError      a run takes more memory than it may
    │       └── EndlessError    or more time
    ├── DefectError         a rule of ours failed on a node that the runtime takes
    ├── DeviceError         an execution provider or device is missing, or fails
    ├── DataError           the data or the metric does not fit the model
    ├── PlanError           a plan or an analysis does not fit the model
    │   └── OutOfReachError     a budget is larger than all that can be removed
    ├── NothingToDoError    nothing can be pruned or removed
    ├── MissedError         a result is written, but misses the demanded budget
    ├── VerificationError   the sparse and the dense model disagree
    │   └── NotShownError   no input showed whether they do
    ├── TrainingError       the training worker is missing, refused the model, or died
    ├── WorkerError         a worker process died, or a cluster does not answer
    ├── PluginError         an operator, criterion, budget or pass of another package is not of its form
    ├── UnverifiedError     a result could not be run; it is written beside its place
    └── OutputError         a result cannot be written
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class OnnxpruneError(Exception):
    """An error that is the input's fault.

    Args:
        message: Fault, in words, naming the file, node or tensor.
        hint: Advice; empty where there is none.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message with its hint, for tracebacks and logs."""
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message


class UsageError(OnnxpruneError):
    """Options that make no sense, alone or together."""

    exit_code = 2


class ModelError(OnnxpruneError):
    """An ONNX file that cannot be read, is not valid, or cannot be run.

    Args:
        message: As for every error.
        hint: As for every error.
        node: The name of the node at which a run failed; empty where it is not known.
    """

    def __init__(self, message: str, hint: str = "", node: str = "") -> None:
        super().__init__(message, hint)
        self.node = node


class MixedTypesError(ModelError):
    """A node whose operands have different types, and should have one."""


class LimitError(ModelError):
    """A run beyond its limit of memory or time; its results are unknown, not wrong."""


class EndlessError(LimitError):
    """A run that had not ended when its time was over."""


class DefectError(OnnxpruneError):
    """A rule of this program failed on a node that onnxruntime runs; no file is written.

    Args:
        message: The node, its operator and the failure.
    """

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            "this is a defect of onnxprune, or of the package that describes this operator: please report it"
            " with this message and the node",
        )

    @classmethod
    def of(cls, node: str, rule: str, failure: Exception) -> DefectError:
        """Return the error of a rule that failed.

        Args:
            node: The node with its operator, as messages name it.
            rule: The rule, ``its rule`` or more exactly.
            failure: The exception that it raised.
        """
        return cls(f"{node}: {rule} fails with {type(failure).__name__}: {failure}")


UNEXPECTED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    StopIteration,
    TypeError,
    ValueError,
)
"""Raised by rules on nodes outside their design; foreseen refusals have error classes of their own."""


class DeviceError(OnnxpruneError):
    """An execution provider or a device that is missing, or that fails."""


class DataError(OnnxpruneError):
    """Data or a metric that does not fit the model."""


class PlanError(OnnxpruneError):
    """A plan or an analysis that does not fit the model, or a budget that cannot be met."""


class OutOfReachError(PlanError):
    """A budget larger than all that can be removed."""


class NothingToDoError(OnnxpruneError):
    """Nothing can be pruned or removed; the message has the reason."""


class MissedError(OnnxpruneError):
    """A result is written, but misses a demanded budget.

    Args:
        message: As for every error, with both figures.
        hint: As for every error.
        facts: Facts to report all the same, ready for JSON.
    """

    def __init__(self, message: str, hint: str = "", facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, hint)
        self.facts = dict(facts or {})


class VerificationError(OnnxpruneError):
    """The sparse and the dense model disagree.

    Args:
        message: As for every error.
        hint: As for every error.
        facts: Figures of the difference, ready for JSON.
    """

    def __init__(self, message: str, hint: str = "", facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, hint)
        self.facts = dict(facts or {})


class NotShownError(VerificationError):
    """No input that was tried could show whether two models compute the same.

    Attributes:
        result: Result that was to be proven, for callers that keep it all the same.
    """

    result: Any = None


class TrainingError(OnnxpruneError):
    """The training worker is missing, refused the model, or died."""


class WorkerError(OnnxpruneError):
    """A worker process died, or a cluster does not answer."""


class UnverifiedError(OnnxpruneError):
    """A finished result could not be run on any input; it is kept in a file beside its place."""


class PluginError(OnnxpruneError):
    """An operator, criterion, budget or pass of another package that breaks its interface."""


class OutputError(OnnxpruneError):
    """A result cannot be written."""
