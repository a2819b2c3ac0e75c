"""The verdict on two or three models."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx
from onnx import inliner, numpy_helper

from onnxprune.certify.proof import Kept, Proof
from onnxprune.certify.reading.graph import Read
from onnxprune.certify.refusal import Refusal, unread
from onnxprune.certify.relations.element_bounds import Array

_BASIS_KEY = "onnxprune.basis"
_OTHER_BASIS = (
    "the two are in different bases, as their metadata say: give the original in the basis of the sparse"
    " model, which `onnxprune rotate ORIGINAL --like SPARSE` writes and compares with the original"
)


@dataclass(frozen=True)
class CertifyResult:
    """The verdict: a dense model is shown to be a sparse one for all inputs, or is not.

    Attributes:
        certified: True if the proof succeeded.
        step: Statement that could not be shown: ``dense`` (is the sparse one) or ``sparse`` (is the
            original with zeros).
        tensor: The first tensor that cannot be shown.
        operator: The operator that makes it.
        reason: The reason, in words.
        seconds: Duration of the proof, in seconds.
        branches: Sentences on the If nodes of the sparse model of which one branch alone is possible, with
            the node that fails for all inputs in the other. They are part of the proof, not assumptions.
    """

    certified: bool
    step: str = ""
    tensor: str = ""
    operator: str = ""
    reason: str = ""
    seconds: float = 0.0
    branches: tuple[str, ...] = ()

    @property
    def explanation(self) -> str:
        """The reason in a sentence; empty where there is none."""
        return f"{self.operator} '{self.tensor}': {self.reason}" if self.tensor else self.reason

    def facts(self) -> dict[str, Any]:
        """Return the verdict, ready for JSON."""
        found: dict[str, Any] = {"certified": self.certified, "seconds": round(self.seconds, 3)}
        names = ("step", "tensor", "operator", "reason", "branches")
        return found | {name: getattr(self, name) for name in names if getattr(self, name)}


def certify(
    sparse: onnx.ModelProto,
    dense: onnx.ModelProto,
    kept: Mapping[str, Mapping[int, Array]] | None = None,
    original: onnx.ModelProto | None = None,
    read: Read = numpy_helper.to_array,
    forget: Callable[[], None] = lambda: None,
) -> CertifyResult:
    """Show that a dense model is a sparse one, and that this is the original with some weights zero.

    Args:
        sparse: The sparse model.
        dense: The dense one.
        kept: Hints of a certificate.
        original: Model that the sparse one was made of; none to leave that proof out.
        read: Function from an initializer to its values, for models whose values lie elsewhere.
        forget: Function that is called after each node with a large constant (see `Proof`).

    Returns:
        The verdict; this function raises no exception.
    """
    start = time.perf_counter()
    why: Refusal | None = None
    branches: dict[str, str] = {}
    access: Any = {"read": read, "forget": forget}
    step = "sparse"
    if original is not None:
        why = _refusal(lambda: Proof(_plain(original), _plain(sparse), masked=True, **access).run())
        if why is not None and _basis(original) != _basis(sparse):
            why = Refusal(f"{why.reason}; {_OTHER_BASIS}", why.tensor, why.operator)
    if why is None:
        step = "dense"
        for hints in (kept, None) if kept else (None,):  # hints only help: without them, lists are looked for
            found = _refusal(partial(_prove, sparse, dense, hints, access, branches))
            why = found if found is None else why or found
            if found is None:
                break
    seconds = time.perf_counter() - start
    if why is None:
        return CertifyResult(True, seconds=seconds, branches=tuple(branches.values()))
    return CertifyResult(False, step, why.tensor, why.operator, why.reason, seconds)


def _basis(model: onnx.ModelProto) -> str:
    """Return the note on the basis of a model; empty for one that was not rotated."""
    return next((p.value for p in model.metadata_props if p.key == _BASIS_KEY), "")


def _prove(
    sparse: onnx.ModelProto, dense: onnx.ModelProto, kept: Kept | None, access: Any, branches: dict[str, str]
) -> None:
    """Prove that a dense model is a sparse one; enter which branches of it are the only ones possible."""
    proof = Proof(_plain(sparse), _plain(dense), kept, **access)
    proof.run()
    branches.update({result: branch.sentence for result, branch in proof.sparse.sure.items()})


def _refusal(prove: Callable[[], None]) -> Refusal | None:
    try:
        prove()
    except Refusal as why:
        return why
    except Exception as error:  # after any failure the proof is refused
        return Refusal(f"the verifier cannot read the models: {unread(error)}")
    return None


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model without functions of its own."""
    return inliner.inline_local_functions(model) if len(model.functions) else model
