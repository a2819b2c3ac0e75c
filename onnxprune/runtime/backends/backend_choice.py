"""A latency back-end by its name, as the command line and recipes write it."""

from __future__ import annotations

from onnxprune.errors import UsageError
from onnxprune.runtime.backends.backend import LatencyBackend
from onnxprune.runtime.backends.command import TIMEOUT_S, Command
from onnxprune.runtime.backends.function import Function
from onnxprune.runtime.backends.local import OnnxRuntime, OpenVino
from onnxprune.runtime.backends.tensorrt import find_tensorrt
from onnxprune.runtime.execution import ExecutionConfig
from onnxprune.support.callables import is_reference

__all__ = ["TIMEOUT_S", "check_backend", "find_backend"]

COMMAND = "cmd:"
_CHOICES = (
    "onnxruntime[:PROVIDER], openvino[:DEVICE], tensorrt[:trtexec or :polygraphy], module:callable,"
    " or a command such as 'cmd:ssh board bench {model}'"
)


def check_backend(name: str) -> None:
    """Refuse a text that names no back-end, independently of the installed ones.

    Raises:
        UsageError: It names none.
    """
    kind = name.partition(":")[0]
    if name.startswith(COMMAND):
        Command.of(name.removeprefix(COMMAND))
    elif kind not in ("onnxruntime", "openvino", "tensorrt") and not is_reference(name):
        raise UsageError(f"there is no latency back-end '{name}'", f"choose from: {_CHOICES}")


def find_backend(name: str | None = None, timeout_s: float = TIMEOUT_S) -> LatencyBackend:
    """Return a back-end.

    Args:
        name: ``onnxruntime[:PROVIDER]``, the default; ``openvino[:DEVICE]``; ``tensorrt[:PROGRAM]``;
            ``module:callable``; or ``cmd:COMMAND`` with ``{model}`` in it.
        timeout_s: Seconds that one call of a command may take.

    Raises:
        UsageError: The name is none of these.
        DeviceError: The back-end is not there.
        DataError: The callable cannot be imported.
    """
    if name is None:
        return OnnxRuntime()
    check_backend(name)
    if name.startswith(COMMAND):
        return Command.of(name.removeprefix(COMMAND), timeout_s)
    kind, _, detail = name.partition(":")
    if kind == "onnxruntime":
        return OnnxRuntime(ExecutionConfig.of(detail) if detail else None)
    if kind == "openvino":
        found = OpenVino((detail or "CPU").upper())
        _ = found.device  # a missing device is reported before any work
        return found
    if kind == "tensorrt":
        return find_tensorrt(detail, timeout_s)
    return Function.of(name)
