"""The training worker: a process of its own that holds onnxruntime.training and does as it is told.

Started as `python -m onnxprune.train.worker FOLDER` with the training build first on its path and a
folder made for it to load the model in, which it removes then. It reads frames (see
`onnxprune.train.wire`) from standard input and answers on standard output. When the input ends, it ends
itself, whatever it is computing: the trainer is gone.

    load     the training copy, what to train, how      -> ready
    step     one batch, and a step size or none yet      -> stepped: loss, and what came of the step
    gradients  one batch                                 -> gradients: of all trained tensors, and the loss
    weights                                              -> weights: all trained tensors and statistics
    state                                                -> state: all that training can go on from
    restore  a state                                     -> restored

Anything it refuses is answered with `failed` and the reason.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx

from onnxprune.support.lifeline import end_group, follow_parent
from onnxprune.train.optimizers import Trainable
from onnxprune.train.trainer import Trainer
from onnxprune.train.wire import MASK_PREFIX, Frame, read_frame, write_frame


class Session:
    """A model being trained.

    Args:
        request: The `load` frame: the serialised model and the masks as arrays; `trainable`, `frozen`,
            `threads`, `spin`, `optimizer`, its `options` and `average` as fields.
    """

    def __init__(self, request: Frame) -> None:
        model = onnx.load_from_string(request.arrays["model"].tobytes())
        fields = request.fields
        self._inputs = [info.name for info in model.graph.input]
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            _generate(model, folder, fields["trainable"], fields["frozen"])
            self._state, self._module = _open(Path(folder), fields["threads"], fields["spin"])
        parameters = {name: self._state.parameters[name] for name in fields["trainable"]}
        masks = {name.removeprefix(MASK_PREFIX): mask for name, mask in request.arrays.items()}
        trainables = {
            name: Trainable(parameter.data, parameter.grad, masks.get(name))
            for name, parameter in parameters.items()
        }
        statistics = {name: self._state.parameters[name].data for name in fields["frozen"]}
        self._gradients = {name: tensor.gradient for name, tensor in trainables.items()}
        self._trainer = Trainer(trainables, statistics, fields)
        self._losses: list[float] = []

    def step(self, request: Frame) -> Frame:
        """Compute the gradient of a batch; with a step size, step with all there are since the last step."""
        loss = self._backward(request)
        self._losses.append(loss)
        rate = request.fields["learning_rate"]
        outcome: dict[str, Any] = {}
        if rate is not None:
            outcome = self._trainer.step(sum(self._losses) / len(self._losses), rate, len(self._losses))
            self._losses.clear()
            self._module.lazy_reset_grad()
        return Frame("stepped", {"loss": loss, **outcome})

    def gradients(self, request: Frame) -> Frame:
        """Return the gradient of the loss of one batch; nothing is trained."""
        loss = self._backward(request)
        self._module.lazy_reset_grad()  # the values stay until the next batch
        return Frame("gradients", {"loss": loss}, self._gradients)

    def weights(self, request: Frame) -> Frame:
        """Return every trained tensor and every running statistic as they are now."""
        return Frame("weights", arrays=self._trainer.weights())

    def state(self, request: Frame) -> Frame:
        """Return what training can go on from."""
        return self._trainer.state()

    def restore(self, request: Frame) -> Frame:
        """Go on from what `state` returned."""
        self._trainer.restore(request)
        return Frame("restored")

    def _backward(self, request: Frame) -> float:
        """Compute the loss of one batch, and add its gradient to the buffers."""
        return float(np.asarray(self._module(*(request.arrays[name] for name in self._inputs))))


_ANSWERS = {
    "step": Session.step,
    "gradients": Session.gradients,
    "weights": Session.weights,
    "state": Session.state,
    "restore": Session.restore,
}


def serve(
    requests: IO[bytes],
    replies: IO[bytes],
    loading: Callable[[], AbstractContextManager[None]] = nullcontext,
    at_end: Callable[[], None] = lambda: None,
) -> None:
    """Answer requests until they end.

    Args:
        requests: Where they come from.
        replies: Where the answers go.
        loading: What a model is loaded in.
        at_end: Called when the requests have ended, whatever is being computed.
    """
    session: Session | None = None
    incoming: queue.Queue[Frame | None] = queue.Queue(maxsize=1)
    threading.Thread(target=_read_ahead, args=(requests, incoming, at_end), daemon=True).start()
    while (request := incoming.get()) is not None:
        try:
            if request.kind == "load":
                with loading():
                    session, reply = Session(request), Frame("ready")
            elif session is None:
                reply = Frame("failed", {"reason": "nothing is loaded"})
            else:
                reply = _ANSWERS[request.kind](session, request)
        except Exception as error:
            reply = Frame("failed", {"reason": f"{error}" or repr(error)})
        write_frame(replies, reply)


def _read_ahead(requests: IO[bytes], incoming: queue.Queue[Frame | None], at_end: Callable[[], None]) -> None:
    """Fetch the next batch while the current one is being computed."""
    frame: Frame | None = Frame("")
    while frame is not None:
        frame = read_frame(requests)
        if frame is None:
            at_end()
        incoming.put(frame)


def _generate(model: onnx.ModelProto, folder: str, trainable: list[str], frozen: list[str]) -> None:
    """Build the gradient graph; the loss is the model's first output."""
    from onnxruntime.training import artifacts
    from onnxruntime.training.onnxblock import _training_graph_utils

    # It makes options of its own, and with those logs every graph transformation it tries.
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
    """Load what `_generate` wrote: the checkpoint state and the module that steps it."""
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


def main() -> None:
    """Serve on the process's own pipes."""
    # The import of this one pulls in torch, for mixed precision helpers that are not needed here.
    sys.modules.setdefault("onnxruntime.training.optim", types.ModuleType("onnxruntime.training.optim"))
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the native code prints must not land between the frames
    folder = Path(sys.argv[1])

    def at_end() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        end_group()

    follow_parent(at_end)
    with contextlib.suppress(BrokenPipeError):  # the trainer is gone
        serve(sys.stdin.buffer, replies, lambda: _in_folder(folder), at_end)
    at_end()


@contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    """Work in a folder and remove it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(folder.anchor)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
