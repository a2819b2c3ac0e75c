"""The installed onnxruntime, imported when it is first needed."""

from __future__ import annotations

from types import ModuleType

from onnxprune.errors import ModelError


def onnxruntime() -> ModuleType:
    """Import onnxruntime.

    Raises:
        ModelError: It is missing or broken; the hint gives the way to install it.
    """
    hint = 'install it with: pip install "onnxprune[cpu]"'
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(f"onnxruntime cannot be imported: {error}", hint) from error
    if not hasattr(onnxruntime, "InferenceSession"):  # the state after one of two builds is uninstalled
        raise ModelError("the installed onnxruntime is broken: it is an empty package", hint)
    module: ModuleType = onnxruntime
    return module
