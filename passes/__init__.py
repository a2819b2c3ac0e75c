"""The passes: one file each, every one a class with the options of its command."""

from onnxprune.passes.ana import Ana
from onnxprune.passes.base import Pass, PassResult
from onnxprune.passes.factorize import Factorize
from onnxprune.passes.finetune import Finetune
from onnxprune.passes.keep_rows import KeepRows
from onnxprune.passes.prune import Prune
from onnxprune.passes.recover import Recover
from onnxprune.passes.reports import (
    AnaReport,
    FactorizeReport,
    FinetuneReport,
    PruneReport,
    RecoverReport,
    Report,
    RotateReport,
    SeparateReport,
    SparsifyReport,
    TransformReport,
)
from onnxprune.passes.rotate import Rotate
from onnxprune.passes.separate import Separate
from onnxprune.passes.sparsify import Sparsify
from onnxprune.passes.transform import Transform

__all__ = [
    "Ana",
    "AnaReport",
    "Factorize",
    "FactorizeReport",
    "Finetune",
    "FinetuneReport",
    "KeepRows",
    "Pass",
    "PassResult",
    "Prune",
    "PruneReport",
    "Recover",
    "RecoverReport",
    "Report",
    "Rotate",
    "RotateReport",
    "Separate",
    "SeparateReport",
    "Sparsify",
    "SparsifyReport",
    "Transform",
    "TransformReport",
]
