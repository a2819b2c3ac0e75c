"""The end of onnxruntime-training in the worker: its artifacts, and the module that steps them."""

from __future__ import annotations

import sys
import tempfile
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.train.wire import Array


class ArtifactModule:
    """A model whose steps onnxruntime.training computes.

    Args:
        model: The training copy, the loss its first output.
        trained: Names of the tensors to train.
        statistics: Names of the running statistics.
        threads: Threads of its sessions.
        spin: True if they wait in busy loops.

    Attributes:
        parameters: Values of the trained tensors: views of the runtime's own buffers.
        gradients: Their gradients, summed since the last reset: such views, too.
        statistics: Running statistics, likewise.
    """

    def __init__(
        self, model: bytes, trained: list[str], statistics: list[str], threads: int, spin: bool
    ) -> None:
        # The import of this one pulls in torch, for mixed precision helpers that are not needed here.
        sys.modules.setdefault("onnxruntime.training.optim", types.ModuleType("onnxruntime.training.optim"))
        proto = onnx.load_from_string(model)
        self._inputs = [info.name for info in proto.graph.input]
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            _generate(proto, folder, trained, statistics)
            self._state, self._module = _open(Path(folder), threads, spin)
        parameters = {name: self._state.parameters[name] for name in trained}
        self.parameters: dict[str, Array] = {name: p.data for name, p in parameters.items()}
        self.gradients: dict[str, Array] = {name: p.grad for name, p in parameters.items()}
        self.statistics: dict[str, Array] = {n: self._state.parameters[n].data for n in statistics}

    def __call__(self, arrays: Mapping[str, Array]) -> float:
        """Compute the loss of a batch, and add its gradients to the buffers."""
        return float(np.asarray(self._module(*(arrays[name] for name in self._inputs))))

    def reset(self) -> None:
        """Let the next gradients replace the present ones, whose values stay until then."""
        self._module.lazy_reset_grad()


def _generate(model: onnx.ModelProto, folder: str, trainable: list[str], frozen: list[str]) -> None:
    """Build the gradient graph; the loss is the model's first output."""
    from onnxruntime.training import artifacts
    from onnxruntime.training.onnxblock import _training_graph_utils

    # Its default session options log every graph transformation.
    _training_graph_utils.SessionOptions = _options
    artifacts.generate_artifacts(
        model,
        requires_grad=trainable,
        frozen_params=frozen,
        loss=None,
        optimizer=None,
        artifact_directory=folder,
    )


def _open(folder: Path, threads: int, spin: bool) -> tuple[Any, Any]:
    """Load the files of `_generate`: the checkpoint state and the module that steps it."""
    from onnxruntime.training.api import CheckpointState, Module

    options = _options()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    state = CheckpointState.load_checkpoint(folder / "checkpoint")
    return state, Module(folder / "training_model.onnx", state, session_options=options)


def _options() -> Any:
    """Return options that keep quiet, and take numbers too small for their precision for zero.

    The first session of a process decides the latter for this thread, too. Where gradients have died,
    momentum fades into such numbers, which processors are slow with, and stays there.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return options
