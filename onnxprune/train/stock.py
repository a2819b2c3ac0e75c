"""The stock engine's end in the worker: sessions of step graphs on buffers that stay where they are.

Weights, gradients and running statistics lie in arrays that the sessions are bound to. A graph is of fixed
sizes: a batch of another size brings a graph of its own with it, and the last few are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from onnxprune.train.wire import Array, aligned_empty

GRAPH = "graph:"
"""The array of a request that is the graph for its sizes, where the worker has none yet."""
VALUE = "value:"
"""In front of a tensor's name: its values at the beginning."""
KEPT_GRAPHS = 4
Signature: TypeAlias = "tuple[tuple[str, tuple[int, ...]], ...]"


def signature_of(arrays: Mapping[str, Array]) -> Signature:
    """Return the key of the graph for a batch."""
    return tuple((name, array.shape) for name, array in arrays.items() if name != GRAPH)


class StockModule:
    """A model whose steps the stock runtime computes.

    Args:
        values: Trained tensors and running statistics, by name.
        trained: Names of the former.
        statistics: Names of the latter.
        threads: Threads of a session.
        spin: True if they wait in busy loops.

    Attributes:
        parameters: Values of the trained tensors.
        gradients: Their gradients, summed since the last reset.
        statistics: Running statistics.
    """

    def __init__(
        self,
        values: Mapping[str, Array],
        trained: list[str],
        statistics: list[str],
        threads: int,
        spin: bool,
    ) -> None:
        self.parameters = {name: _copied(values[name]) for name in trained}
        self.gradients = {name: _zeros_like(array) for name, array in self.parameters.items()}
        self.statistics = {name: _copied(values[name]) for name in statistics}
        self._threads, self._spin = threads, spin
        self._found = {name: _zeros_like(array) for name, array in self.statistics.items()}
        self._more: dict[str, Array] = {}
        self._empty = True
        self._sessions: OrderedDict[Signature, _Bound] = OrderedDict()

    def __call__(self, arrays: Mapping[str, Array]) -> float:
        """Compute the loss of a batch, and add its gradients to the buffers."""
        bound = self._bound(arrays)
        if self._empty:
            loss = bound.run(arrays, self.gradients, self._found)
        else:
            self._more = self._more or {name: _zeros_like(a) for name, a in self.gradients.items()}
            loss = bound.run(arrays, self._more, self._found)
            for name, gradient in self.gradients.items():
                gradient += self._more[name]
        for name, running in self.statistics.items():
            running[...] = self._found[name]
        self._empty = False
        return loss

    def reset(self) -> None:
        """Let the next gradients replace the present ones."""
        self._empty = True

    def _bound(self, arrays: Mapping[str, Array]) -> _Bound:
        """Return the session for the shapes of a batch, a new one if the batch includes its graph."""
        signature = signature_of(arrays)
        if GRAPH in arrays:
            state = self.parameters | self.statistics
            self._sessions[signature] = _Bound(arrays[GRAPH].tobytes(), state, self._threads, self._spin)
            if len(self._sessions) > KEPT_GRAPHS:
                self._sessions.popitem(last=False)
        self._sessions.move_to_end(signature)
        return self._sessions[signature]


def _copied(values: Array) -> Array:
    array = aligned_empty(values.shape, np.float32)
    array[...] = values
    return array


def _zeros_like(values: Array) -> Array:
    return _copied(np.zeros(values.shape, np.float32))


class _Bound:
    """A session whose state is bound once and for all."""

    def __init__(self, graph: bytes, state: Mapping[str, Array], threads: int, spin: bool) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(
            graph, _options(threads, spin), providers=["CPUExecutionProvider"]
        )
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._share = onnxruntime.OrtValue.ortvalue_from_numpy
        self._state = {name: array for name, array in state.items() if name in self._inputs}
        self._loss = np.zeros((), np.float32)
        self._bindings: dict[int, Any] = {}

    def run(
        self, arrays: Mapping[str, Array], gradients: Mapping[str, Array], statistics: Mapping[str, Array]
    ) -> float:
        """Run a batch; gradients and new statistics are written into the arrays given."""
        binding = self._bindings.get(id(gradients))
        if binding is None:
            binding = self._bindings[id(gradients)] = self._binding(gradients, statistics)
        for name in self._inputs - set(self._state):
            binding.bind_cpu_input(name, np.ascontiguousarray(arrays[name]))
        self._session.run_with_iobinding(binding)
        return float(self._loss)

    def _binding(self, gradients: Mapping[str, Array], statistics: Mapping[str, Array]) -> Any:
        binding = self._session.io_binding()
        for name, array in self._state.items():
            binding.bind_ortvalue_input(name, self._share(array))
        loss, *others = (value.name for value in self._session.get_outputs())
        binding.bind_ortvalue_output(loss, self._share(self._loss))
        for output in others:
            kind, _, name = output.partition(":")
            array = (gradients if kind == "gradient" else statistics)[name]
            binding.bind_ortvalue_output(output, self._share(array))
        return binding


def _options(threads: int, spin: bool) -> Any:
    """Return options of a session whose largest tensors are written once.

    Without the pattern of a first run memory is held once, not twice, at the same speed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    return options
