"""Execution configuration: the provider that sessions run on, and its options.

One configuration holds for the whole process (`executing`), so every session of a pass uses it. Sessions that
compute the reference (``optimize=False``) stay on the CPU: a comparison must not depend on a device.

Defaults favour equal results over speed: TF32 and reduced precision are off, and convolution algorithms are
chosen by heuristics, because an exhaustive search is repeated for every shape (onnxruntime documentation:
CUDA, TensorRT and OpenVINO execution providers).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from onnxprune.errors import DeviceError
from onnxprune.runtime.library import onnxruntime

CPU = "CPUExecutionProvider"
NAMES: Mapping[str, str] = {
    "cpu": CPU,
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "nv-tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "dnnl": "DnnlExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "vitisai": "VitisAIExecutionProvider",
    "nnapi": "NnapiExecutionProvider",
    "cann": "CANNExecutionProvider",
}
"""Short names of onnxruntime's execution providers; full names are understood, too."""
PACKAGES: Mapping[str, str] = {
    "cuda": "onnxruntime-gpu",
    "tensorrt": "onnxruntime-gpu",
    "openvino": "onnxruntime-openvino",
    "directml": "onnxruntime-directml",
    "qnn": "onnxruntime-qnn",
    "migraphx": "onnxruntime-migraphx",
    "webgpu": "onnxruntime-webgpu",
}
"""Distributions whose onnxruntime has a provider; each replaces the distribution ``onnxruntime``."""
_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "CUDAExecutionProvider": {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"},
    "TensorrtExecutionProvider": {"trt_fp16_enable": "0", "trt_int8_enable": "0"},
    "OpenVINOExecutionProvider": {"device_type": "CPU"},
}

_MEMORIES: Mapping[str, str] = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "NvTensorRTRTXExecutionProvider": "cuda",
    "DmlExecutionProvider": "dml",
    "CANNExecutionProvider": "cann",
}
"""Providers with a memory of their own, and the name of that device in onnxruntime."""


@dataclass(frozen=True)
class ExecutionConfig:
    """The provider of sessions, with its options.

    Attributes:
        provider: The full name of an execution provider of onnxruntime.
        options: Provider options by name, beside the defaults of this module.
    """

    provider: str = CPU
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, provider: str, options: Iterable[tuple[str, str]] = ()) -> ExecutionConfig:
        """Look a provider up.

        Args:
            provider: A short name such as ``cuda``, or a full one.
            options: Provider options.

        Raises:
            DeviceError: The installed onnxruntime has no such provider.
        """
        full = NAMES.get(provider.lower(), provider)
        found = available()
        if full not in found:
            short = provider.lower()
            known = ", ".join(sorted(_short(name) for name in found))
            hint = f"the installed onnxruntime has: {known}; see: onnxprune doctor"
            if short in PACKAGES:
                hint = f"install {PACKAGES[short]} instead of onnxruntime; see: onnxprune doctor"
            raise DeviceError(f"there is no execution provider {provider!r} on this machine", hint)
        return cls(full, dict(options))

    @property
    def is_cpu(self) -> bool:
        """Return whether sessions run on onnxruntime's own CPU provider."""
        return self.provider == CPU

    @property
    def name(self) -> str:
        """The short name of the provider, for messages."""
        return _short(self.provider)

    @property
    def memory(self) -> tuple[str, int] | None:
        """The device whose memory sessions read, by name and number; ``None`` for that of the processor."""
        device, number = _MEMORIES.get(self.provider), str(self.options.get("device_id", "0"))
        return (device, int(number)) if device and number.isdecimal() else None

    def providers(self) -> list[Any]:
        """Return the providers of a session, in onnxruntime's form, the CPU last."""
        options = {**_DEFAULTS.get(self.provider, {}), **self.options}
        named: Any = (self.provider, options) if options else self.provider
        return [named] if self.is_cpu else [named, CPU]

    def facts(self) -> dict[str, Any]:
        """Return the configuration, ready for JSON."""
        return {"provider": self.provider, "options": dict(self.options)}


def available() -> tuple[str, ...]:
    """Return the providers of the installed onnxruntime.

    Raises:
        ModelError: None is installed.
    """
    return tuple(onnxruntime().get_available_providers())


def _short(provider: str) -> str:
    return next((short for short, full in NAMES.items() if full == provider), provider)


_current = [ExecutionConfig()]
_reported: set[tuple[str, str]] = set()


def current() -> ExecutionConfig:
    """Return the configuration that new sessions use."""
    return _current[-1]


@contextmanager
def executing(config: ExecutionConfig) -> Iterator[None]:
    """Use a configuration for all sessions that are opened meanwhile, in every thread of this process."""
    _current.append(config)
    try:
        yield
    finally:
        _current.pop()


def on_cpu(session: Any) -> frozenset[str]:
    """Return the operators of a session that run on the CPU instead of the named provider.

    Args:
        session: An ``onnxruntime.InferenceSession`` opened with graph assignment recorded.

    Returns:
        Operator names; none where the runtime does not record them.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return frozenset()
    try:
        assigned = session.get_provider_graph_assignment_info()
    except Exception:  # the provider does not record it
        return frozenset()
    return frozenset(node.op_type for part in assigned if part.ep_name == CPU for node in part.get_nodes())


def unreported(operators: Iterable[str], config: ExecutionConfig) -> list[str]:
    """Return the operators whose fallback was not yet reported, and mark them as reported."""
    fresh = sorted(op for op in operators if (config.provider, op) not in _reported)
    _reported.update((config.provider, op) for op in fresh)
    return fresh
