"""A compiler that makes trained ONNX models smaller and faster by removing whole channels.

    import onnxprune
    from onnxprune.passes import Ana, Finetune, Prune, Transform

    model = onnxprune.load("model.onnx")
    results = onnxprune.Pipeline([Ana(data="val.npz"), Prune(reduce_macs=0.5), Transform()])(model)
    onnxprune.save(results[-1].model, "small.onnx")

Every pass is a class with the options of the command of the same name. Names are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxprune.analysis.groups.channels import find_channels
    from onnxprune.decisions.elements import check_pattern
    from onnxprune.errors import OnnxpruneError
    from onnxprune.evaluate.equivalence import verify
    from onnxprune.ir import Model, load
    from onnxprune.ir.output import write_model as save
    from onnxprune.pipeline import Pipeline

__version__ = "0.1.0"
__all__ = [
    "Model",
    "OnnxpruneError",
    "Pipeline",
    "check_pattern",
    "find_channels",
    "load",
    "save",
    "verify",
]

_HOMES = {
    "Model": ("ir", "Model"),
    "OnnxpruneError": ("errors", "OnnxpruneError"),
    "Pipeline": ("pipeline", "Pipeline"),
    "check_pattern": ("decisions.elements", "check_pattern"),
    "find_channels": ("analysis.groups.channels", "find_channels"),
    "load": ("ir", "load"),
    "save": ("ir.output", "write_model"),
    "verify": ("evaluate.equivalence", "verify"),
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: the command line starts faster that way."""
    if name not in _HOMES:
        raise AttributeError(f"module 'onnxprune' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(f"onnxprune.{module}"), attribute)
