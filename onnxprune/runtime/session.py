"""A model ready to run through the installed build of onnxruntime."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import onnx

from onnxprune.errors import DeviceError, EndlessError, LimitError, MixedTypesError, ModelError
from onnxprune.runtime.batch_axes import batch_name, fixed_batch
from onnxprune.runtime.deadline import RunDeadline
from onnxprune.runtime.execution import ExecutionConfig, current, on_cpu, unreported
from onnxprune.runtime.library import onnxruntime
from onnxprune.runtime.operator_functions import add_functions
from onnxprune.runtime.resident import ResidentArrays, run_resident
from onnxprune.runtime.slim import slim_copy
from onnxprune.runtime.unpacked import take_apart
from onnxprune.support.mapped import is_mapped, released_meanwhile
from onnxprune.support.processors import processor_quota
from onnxprune.support.progress import tell

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Feeds: TypeAlias = Mapping[str, Array]

_ELEMENT_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(string)": np.dtype(object),
    **{
        f"tensor({name})": np.dtype(name)
        for name in (
            "float16 bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 complex64 complex128".split()
        )
    },
    "tensor(int4)": onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.INT4),
    "tensor(uint4)": onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.UINT4),
}


@dataclass(frozen=True)
class TensorSpec:
    """The declaration of an input or output.

    Attributes:
        name: The tensor's name in the file.
        dtype: The element type; ``object`` for strings.
        shape: One entry an axis: a size, a symbolic size's name, or ``None`` where the file gives none.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join('?' if s is None else str(s) for s in self.shape)}]"


@dataclass(frozen=True)
class RuntimeInfo:
    """The onnxruntime build, for reports.

    Attributes:
        package: The distribution it was installed from, such as ``onnxruntime`` or ``onnxruntime-gpu``.
        version: Its version.
        providers: The execution providers it was built with.
    """

    package: str
    version: str
    providers: tuple[str, ...]


class Session:
    """A model loaded into onnxruntime.

    Args:
        model: A model with all its weights in memory, of any size: large ones are passed as arrays,
            not through a serialised message. Reading files is left to `onnxprune.ir`: onnxruntime 1.20
            still follows external data out of the model's folder.
        optimize: True if onnxruntime may rewrite the graph. ``False`` runs the nodes as they stand in the
            file, as comparisons for correctness require, and returns the runtime's memory after each run:
            they hold several sessions of a large model.
        threads: Threads one run may use; ``None`` leaves it to onnxruntime (one a physical core),
            except in a container whose processor time is limited.
        spin: True if those threads wait for one another in busy loops, as is onnxruntime's default. That is a
            little faster on an idle machine and several times slower on one that others use too.
        execution: The provider. By default the one in use (`onnxprune.runtime.execution`) where the graph may
            be rewritten, and the CPU where it may not: comparisons must not depend on a device.

    Attributes:
        name: Name of the model in messages.
        inputs: Inputs that have to be fed.
        outputs: Outputs that come back.
        on_cpu: The operators that the named provider leaves to the CPU.

    Raises:
        ModelError: onnxruntime is missing, refuses the model, or a tensor type is not supported.
        DeviceError: The named provider cannot be used.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        *,
        optimize: bool = True,
        threads: int | None = None,
        spin: bool = False,
        execution: ExecutionConfig | None = None,
    ) -> None:
        self.name = f"model {model.graph.name!r}" if model.graph.name else "the model"
        ort = onnxruntime()
        self.execution = execution or (current() if optimize else ExecutionConfig())
        options = _session_options(ort, optimize, threads, spin)
        self._is_mapped = any(map(is_mapped, model.graph.initializer))
        self._fed_weights: Feeds = {}
        if not (self._is_mapped and self._open_with_fed_weights(model, ort, options)):
            options = _session_options(ort, optimize, threads, spin)
            graph, self._weights = self._hand_over(model, ort, options)
            try:
                self._session = _opened(ort, graph, options, self.execution)
            except DeviceError:
                raise
            except Exception as error:  # onnxruntime's exceptions share no base class of their own
                what = f"onnxruntime cannot load {self.name}{self._where}"
                raise _refusal(what, error, _other_precision(model)) from error
        self.on_cpu = frozenset[str]() if self.execution.is_cpu else on_cpu(self._session)
        required = (a for a in self._session.get_inputs() if a.name not in self._fed_weights)
        self.inputs = tuple(map(_spec, required))
        self.outputs: tuple[TensorSpec, ...] = tuple(_spec(a) for a in self._session.get_outputs())

    @property
    def _where(self) -> str:
        return "" if self.execution.is_cpu else f" with provider {self.execution.name}"

    @property
    def fixed_batch(self) -> int | None:
        """The number of samples a run if the file fixes it, else ``None``."""
        return fixed_batch(self.inputs)

    @property
    def batch_name(self) -> str | None:
        """The name of the axis that counts samples, ``None`` where it has none."""
        return batch_name(self.inputs, self.outputs)

    def report_fallbacks(self) -> None:
        """Report the operators that the named provider leaves to the CPU, each once a process."""
        if fresh := unreported(self.on_cpu, self.execution):
            tell(f"{self.execution.name} leaves these operators to the CPU: {', '.join(fresh)}")

    def run(self, feeds: Feeds, outputs: Iterable[str] | None = None) -> dict[str, Array]:
        """Run the model once.

        Args:
            feeds: An array for every input.
            outputs: The names of the outputs to compute; all of them by default.

        Returns:
            The outputs by name.

        Raises:
            ModelError: An input is missing or does not fit, or a node failed; the message names the node.
            LimitError: The memory is not enough.
            EndlessError: The time is not enough that `runs_within` allows.
        """
        self.report_fallbacks()
        names = [o.name for o in self.outputs] if outputs is None else list(outputs)
        options = onnxruntime().RunOptions()
        watch = RunDeadline(options)
        try:
            with watch, released_meanwhile() if self._is_mapped else nullcontext():
                values = self._values(names, feeds, options)
        except Exception as error:  # as above
            if watch.struck:
                raise _endless(self.name, watch.seconds) from error
            what = f"onnxruntime cannot run {self.name}{self._where}"
            raise _refusal(what, error, _other_sizes(feeds)) from error
        return dict(zip(names, values, strict=True))

    def _values(self, names: list[str], feeds: Feeds, options: Any) -> Any:
        place = self.execution.memory
        if place is not None and isinstance(feeds, ResidentArrays) and not self._fed_weights:
            return run_resident(self._session, names, feeds, place, options)
        return self._session.run(names, {**self._fed_weights, **feeds}, options)

    def _open_with_fed_weights(self, model: onnx.ModelProto, ort: ModuleType, options: Any) -> bool:
        """Open a session whose large weights are inputs: onnxruntime reads those where they are mapped.

        It would copy initializers. Some operators take no weights but initializers.

        Returns:
            True if that was possible.
        """
        small, weights = slim_copy(model, as_inputs=True)
        take_apart(small)
        add_functions(small, has_operator)
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED  # a weight is cast where it is read
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        try:
            self._session = _opened(ort, small.SerializeToString(), options, self.execution)
        except Exception:  # the usual way states the reason
            return False
        self._weights = self._fed_weights = weights
        return True

    def _hand_over(
        self, model: onnx.ModelProto, ort: ModuleType, options: Any, fed: Iterable[str] = ()
    ) -> tuple[bytes, dict[str, Array]]:
        """Serialise the graph and lend its large weights to the session: they must outlive it."""
        small, weights = slim_copy(model, fed)
        take_apart(small)
        add_functions(small, has_operator)
        lent = [ort.OrtValue.ortvalue_from_numpy(w) for w in weights.values()]
        if lent:
            options.add_external_initializers(list(weights), lent)
        return small.SerializeToString(), weights


class WeightSession(Session):
    """A session some of whose weights can be fed, so that many variants of a model run without a build each.

    The chosen constants become graph inputs with a default value (ONNX IR, "initializers as inputs"): left
    out of the feeds they keep the value in the file. Their preparation as constant weights (folding
    BatchNormalization into Conv, blocked layouts) is then lost in onnxruntime; choose no more than will be
    fed.

    Args:
        model: The model, all its weights in memory.
        fed: The names of the initializers, or outputs of Constant nodes, that `run` is to accept.
        optimize: As for `Session`.
        threads: As for `Session`.
        spin: As for `Session`.
        execution: As for `Session`.

    Attributes:
        weights: Weights that may be fed in addition to the inputs.

    Raises:
        ModelError: As for `Session`, or the model has no constant of such a name.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        fed: Iterable[str],
        *,
        optimize: bool = True,
        threads: int | None = None,
        spin: bool = False,
        execution: ExecutionConfig | None = None,
    ) -> None:
        self._fed = tuple(fed)
        super().__init__(model, optimize=optimize, threads=threads, spin=spin, execution=execution)
        self.weights = tuple(_spec(a) for a in self._session.get_overridable_initializers())

    def _open_with_fed_weights(self, model: onnx.ModelProto, ort: ModuleType, options: Any) -> bool:
        return False  # the fed weights are chosen already

    def _hand_over(
        self, model: onnx.ModelProto, ort: ModuleType, options: Any, fed: Iterable[str] = ()
    ) -> tuple[bytes, dict[str, Array]]:
        return super()._hand_over(model, ort, options, self._fed)


def runtime_info() -> RuntimeInfo:
    """Return which onnxruntime is installed.

    Raises:
        ModelError: None is.
    """
    ort = onnxruntime()
    return RuntimeInfo(_package(), str(ort.__version__), tuple(ort.get_available_providers()))


@lru_cache(maxsize=1)
def _package() -> str:
    """Return the distribution that onnxruntime was installed from; the search reads every one there is."""
    return min(importlib.metadata.packages_distributions().get("onnxruntime", ["onnxruntime"]))


def has_operator(domain: str, name: str) -> bool:
    """Return true if onnxruntime has an operator, in any version and for any types."""
    known = _operators()
    return not known or ("" if domain == "ai.onnx" else domain, name) in known


@lru_cache(maxsize=1)
def _operators() -> frozenset[tuple[str, str]]:
    """Return all operators by domain and name; none where this build does not list them."""
    onnxruntime()
    try:
        from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema
    except ImportError:
        return frozenset()
    return frozenset((schema.domain, schema.name) for schema in get_all_operator_schema())


def _session_options(ort: ModuleType, optimize: bool, threads: int | None, spin: bool) -> Any:
    """Return options that keep onnxruntime quiet and its threads away from other sessions."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # fatal: errors arrive as exceptions
    options.intra_op_num_threads = threads or processor_quota() or 0
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    return options


def _opened(ort: ModuleType, graph: bytes, options: Any, config: ExecutionConfig) -> Any:
    """Open a session, and refuse one that silently left the named provider out."""
    if config.is_cpu:
        return ort.InferenceSession(graph, options, providers=config.providers())
    if hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(graph, options, providers=config.providers())
    if config.provider not in session.get_providers():
        raise DeviceError(
            f"provider {config.name} cannot be started on this machine",
            "its driver or its libraries are missing or of another version; see: onnxprune doctor",
        )
    return session


def _spec(argument: Any) -> TensorSpec:
    """Translate onnxruntime's description of an input or output."""
    if argument.type not in _ELEMENT_TYPES:
        raise ModelError(
            f"tensor {argument.name!r} is of type {argument.type}, which is not supported",
            "inputs and outputs must be tensors of a type numpy knows: export the model without the operator"
            " that makes other ones (with skl2onnx: options={'zipmap': False})",
        )
    shape = tuple(map(_known_size, argument.shape))
    return TensorSpec(argument.name, _ELEMENT_TYPES[argument.type], shape)


def _known_size(size: int | str | None) -> int | str | None:
    """Return a size or its name; ``None`` for a placeholder: paddle2onnx writes −1 and question marks."""
    if isinstance(size, int):
        return size if size >= 0 else None
    return size if size and size.strip("?") else None


_NODE_PATTERNS = (
    r"implementation for (?P<op>\w+)\(\d+\) node with name '(?P<name>[^']*)'",
    r"running (?P<op>\w+) node\. Name:'(?P<name>[^']*)'",
    r"Node \((?P<name>.*?)\) Op \((?P<op>\w+)\)",
    r"In Node, \(\"(?P<name>.*?)\", (?P<op>\w+)",
    r"operator \((?P<op>\w+)\) in node \((?P<name>.*?)\)",
)
_NOISE = (
    r"\[ONNXRuntimeError\] : \d+ : \w+ : ",
    r"Non-zero status code returned while running \w+ node\. Name:'[^']*' Status Message: ",
    r"\S*onnxruntime\S*\.(?:h|cc):\d+ .*?\) ",
    r"\S+\.(?:h|cc):\d+ ",
)


def _endless(name: str, seconds: float | None) -> EndlessError:
    return EndlessError(
        f"a run of {name} had not ended after {seconds:.0f} s: a loop in it may have no end on these inputs",
        "give samples of real inputs with --data, or smaller sizes with --shape or --dim",
    )


_MIXED_TYPES = "bound to different types"
_OUT_OF_MEMORY = (
    "Failed to allocate memory",
    "can't start new thread",
    "bad_alloc",
    "bad allocation",
    "out of memory",
)


def _other_sizes(feeds: Feeds) -> str:
    """Return a hint for a model that loads and does not run; the usual reason is a size."""
    sizes = ", ".join(f"{name} {'×'.join(map(str, np.shape(array)))}" for name, array in feeds.items())
    return (
        f"is it a model of other sizes than {sizes}? Then give samples, --shape or --dim of sizes that it"
        " takes; else another export, or a newer onnxruntime, may do better"
    )


def _other_precision(model: onnx.ModelProto) -> str:
    """Return a hint for a model that does not load; the usual reason is a type that few kernels have."""
    names = {onnx.TensorProto.DOUBLE: "float64", onnx.TensorProto.BFLOAT16: "bfloat16"}
    found = {tensor.data_type for tensor in model.graph.initializer}
    found |= {value.type.tensor_type.elem_type for value in model.graph.input}
    rare = [name for kind, name in names.items() if kind in found]
    if rare:
        return (
            f"it computes in {' and '.join(rare)}, which few operators of the runtime take: export in float32"
        )
    return "another export, or a newer onnxruntime, may do better"


def _refusal(what: str, error: Exception, hint: str) -> ModelError:
    """Turn onnxruntime's message into one for people, the failing node named first."""
    text = " ".join(str(error).split())
    found = next((m for p in _NODE_PATTERNS if (m := re.search(p, text))), None)
    for noise in _NOISE:
        text = re.sub(noise, "", text)
    short = any(phrase in text for phrase in _OUT_OF_MEMORY)
    text = re.sub(r"(std::)?bad[_ ]alloc(ation)?", "memory does not suffice", text)
    where = f" at node {found['name']!r} ({found['op']})" if found else ""
    name, message = found["name"] if found else "", f"{what}{where}: {text}"
    if short:
        smaller = "allow more memory with --memory, or give smaller sizes with --shape, --dim or --batch-size"
        return LimitError(message, smaller, name)
    if _MIXED_TYPES in text:
        return MixedTypesError(message, "another export, or a Cast before the node, may help", name)
    return ModelError(message, hint, name)
