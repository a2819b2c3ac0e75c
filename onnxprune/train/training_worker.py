"""The training worker: a process of its own that holds an engine and serves requests.

Started as `python -m onnxprune.train.training_worker FOLDER` with the runtime of the engine first on its path
and a folder made for it to load the model in, which it removes then. It reads frames (see
`onnxprune.train.wire`) from standard input and answers on standard output. When the input ends, it ends
itself, even within a computation: the trainer is gone.

    load     graphs, trained tensors, settings           -> ready
    step     one batch, and a step size or none yet      -> stepped: loss, and the facts of the step
    gradients  one batch                                 -> gradients: of all trained tensors, and the loss
    weights                                              -> weights: all trained tensors and statistics
    state                                                -> state: weights and optimiser, to go on from
    restore  a state                                     -> restored

Anything it refuses is answered with `failed` and the reason.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, Protocol

from onnxprune.support.lifeline import end_group, follow_parent
from onnxprune.train.artifacts import ArtifactModule
from onnxprune.train.optimizers import Trainable
from onnxprune.train.stock import VALUE, StockModule
from onnxprune.train.trainer import Trainer
from onnxprune.train.wire import MASK_PREFIX, Array, WireMessage, read_frame, write_frame


class Module(Protocol):
    """The interface of an engine: gradients of batches, in buffers that stay where they are."""

    @property
    def parameters(self) -> Mapping[str, Array]:
        """Values of the trained tensors, which the trainer changes in place."""

    @property
    def gradients(self) -> Mapping[str, Array]:
        """Their gradients, summed since the last reset."""

    @property
    def statistics(self) -> Mapping[str, Array]:
        """Running statistics, as they are after the last batch."""

    def __call__(self, arrays: Mapping[str, Array]) -> float:
        """Compute the loss of a batch, and add its gradients to the buffers."""

    def reset(self) -> None:
        """Let the next gradients replace the present ones."""


def open_module(request: WireMessage) -> Module:
    """Open the engine that a `load` frame names."""
    fields, arrays = request.fields, request.arrays
    options = fields["trainable"], fields["frozen"], fields["threads"], fields["spin"]
    if fields["engine"] == "stock":
        values = {n.removeprefix(VALUE): a for n, a in arrays.items() if n.startswith(VALUE)}
        return StockModule(values, *options)
    return ArtifactModule(arrays["model"].tobytes(), *options)


class TrainingSession:
    """A model being trained.

    Args:
        request: The `load` frame: the graphs of the engine and the masks, as arrays; `engine`, `trainable`,
            `frozen`, `threads`, `spin`, `optimizer`, its `options` and `average` as fields.
    """

    def __init__(self, request: WireMessage) -> None:
        self._module = open_module(request)
        masks = {
            n.removeprefix(MASK_PREFIX): a for n, a in request.arrays.items() if n.startswith(MASK_PREFIX)
        }
        trainables = {
            name: Trainable(value, self._module.gradients[name], masks.get(name))
            for name, value in self._module.parameters.items()
        }
        self._trainer = Trainer(trainables, self._module.statistics, request.fields)
        self._losses: list[float] = []

    def step(self, request: WireMessage) -> WireMessage:
        """Compute the gradient of a batch; with a step size, step with all there are since the last step."""
        loss = self._backward(request)
        self._losses.append(loss)
        rate = request.fields["learning_rate"]
        outcome: dict[str, Any] = {}
        if rate is not None:
            outcome = self._trainer.step(sum(self._losses) / len(self._losses), rate, len(self._losses))
            self._losses.clear()
            self._module.reset()
        return WireMessage("stepped", {"loss": loss, **outcome})

    def gradients(self, request: WireMessage) -> WireMessage:
        """Return the gradient of the loss of one batch; nothing is trained."""
        loss = self._backward(request)
        self._module.reset()  # the values stay until the next batch
        return WireMessage("gradients", {"loss": loss}, self._module.gradients)

    def weights(self, request: WireMessage) -> WireMessage:
        """Return every trained tensor and every running statistic as they are now."""
        return WireMessage("weights", arrays=self._trainer.weights())

    def state(self, request: WireMessage) -> WireMessage:
        """Return the state that training can go on from."""
        return self._trainer.state()

    def restore(self, request: WireMessage) -> WireMessage:
        """Go on from a state returned by `state`."""
        self._trainer.restore(request)
        return WireMessage("restored")

    def _backward(self, request: WireMessage) -> float:
        """Compute the loss of one batch, and add its gradient to the buffers."""
        return self._module(request.arrays)


_ANSWERS = {
    "step": TrainingSession.step,
    "gradients": TrainingSession.gradients,
    "weights": TrainingSession.weights,
    "state": TrainingSession.state,
    "restore": TrainingSession.restore,
}


def serve(
    requests: IO[bytes],
    replies: IO[bytes],
    loading: Callable[[], AbstractContextManager[None]] = nullcontext,
    at_end: Callable[[], None] = lambda: None,
) -> None:
    """Answer requests until they end.

    Args:
        requests: Stream of requests.
        replies: Stream of replies.
        loading: Context that a model is loaded in.
        at_end: Called when the requests have ended, even during a computation.
    """
    session: TrainingSession | None = None
    incoming: queue.Queue[WireMessage | None] = queue.Queue(maxsize=1)
    threading.Thread(target=_read_ahead, args=(requests, incoming, at_end), daemon=True).start()
    while (request := incoming.get()) is not None:
        try:
            if request.kind == "load":
                with loading():
                    session, reply = TrainingSession(request), WireMessage("ready")
            elif session is None:
                reply = WireMessage("failed", {"reason": "nothing is loaded"})
            else:
                reply = _ANSWERS[request.kind](session, request)
        except Exception as error:
            reply = WireMessage("failed", {"reason": f"{error}" or repr(error)})
        write_frame(replies, reply)


def _read_ahead(
    requests: IO[bytes], incoming: queue.Queue[WireMessage | None], at_end: Callable[[], None]
) -> None:
    """Fetch the next batch while the current one is being computed."""
    frame: WireMessage | None = WireMessage("")
    while frame is not None:
        frame = read_frame(requests)
        if frame is None:
            at_end()
        incoming.put(frame)


def main() -> None:
    """Serve on the process's own pipes."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of native code must not land between the frames
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
