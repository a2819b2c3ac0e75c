"""Latency back-ends in this process: onnxruntime with any provider, and OpenVINO by its own API."""

from __future__ import annotations

import importlib
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import onnx

from onnxprune.errors import DeviceError
from onnxprune.runtime.backends.backend import Done, LatencyBackend, ignore
from onnxprune.runtime.backends.fixed_models import write_fixed
from onnxprune.runtime.execution import ExecutionConfig, current
from onnxprune.runtime.latency_measurement import Latency, measure_latency, time_in_turns
from onnxprune.runtime.session import Feeds
from onnxprune.support.processors import processor_name


class InProcess(LatencyBackend):
    """A runtime of this process, which times all models side by side."""

    def figure(self, latency: Latency) -> float:
        """Return the fastest run: other programs on this machine only ever add to it."""
        return latency.min_ms

    def measure(
        self,
        models: Sequence[onnx.ModelProto],
        feeds: Sequence[Feeds],
        *,
        rounds: int = 50,
        threads: int | None = None,
        done: Done = ignore,
    ) -> list[Latency]:
        """Time the models side by side."""
        found = self._timed(models, feeds, rounds, threads)
        for k, latency in enumerate(found):
            done(k, latency)
        return found

    @abstractmethod
    def _timed(
        self, models: Sequence[onnx.ModelProto], feeds: Sequence[Feeds], rounds: int, threads: int | None
    ) -> list[Latency]:
        """Return one result a model, in their order."""


@dataclass(frozen=True)
class OnnxRuntime(InProcess):
    """The installed onnxruntime.

    Attributes:
        execution: The provider; by default the one in use.
    """

    execution: ExecutionConfig | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        """The back-end as the user names it."""
        return f"onnxruntime:{self._execution.name}"

    @property
    def device(self) -> str:
        """The name of the device."""
        return processor_name() if self._execution.is_cpu else f"{self._execution.name} on {processor_name()}"

    @property
    def _execution(self) -> ExecutionConfig:
        return self.execution or current()

    def _timed(
        self, models: Sequence[onnx.ModelProto], feeds: Sequence[Feeds], rounds: int, threads: int | None
    ) -> list[Latency]:
        """See `measure_latency`."""
        return measure_latency(models, feeds, rounds=rounds, threads=threads, execution=self.execution)


@dataclass(frozen=True)
class OpenVino(InProcess):
    """OpenVINO, by its own API, tuned for latency.

    Attributes:
        target: The device as OpenVINO names it: ``CPU``, ``GPU``, ``NPU``.
    """

    target: str = "CPU"

    @property
    def name(self) -> str:  # type: ignore[override]
        """The back-end as the user names it."""
        return f"openvino:{self.target}"

    @property
    def device(self) -> str:
        """The name of the device."""
        return str(self._core.get_property(self.target, "FULL_DEVICE_NAME"))

    @cached_property
    def _core(self) -> Any:
        """The runtime.

        Raises:
            DeviceError: It is not installed, or has no such device.
        """
        try:
            core = importlib.import_module("openvino").Core()
        except ImportError as error:
            raise DeviceError(f"OpenVINO cannot be imported: {error}", "pip install openvino") from error
        devices = list(core.available_devices)
        if self.target.partition(".")[0] not in {d.partition(".")[0] for d in devices}:
            raise DeviceError(
                f"OpenVINO has no device {self.target} on this machine", f"it has: {', '.join(devices)}"
            )
        return core

    def _timed(
        self, models: Sequence[onnx.ModelProto], feeds: Sequence[Feeds], rounds: int, threads: int | None
    ) -> list[Latency]:
        """See `time_in_turns`."""
        runs = [self._run(model, feed, threads) for model, feed in zip(models, feeds, strict=True)]
        return time_in_turns(runs, rounds=rounds)

    def _run(self, model: onnx.ModelProto, feeds: Feeds, threads: int | None) -> Callable[[], object]:
        """Compile a model; return its run.

        Raises:
            DeviceError: OpenVINO refuses the model or cannot run it.
        """
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads is not None and self.target == "CPU":
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            with tempfile.TemporaryDirectory(prefix="onnxprune-latency-") as folder:
                path = write_fixed(model, feeds, Path(folder) / "model.onnx")
                compiled = self._core.compile_model(self._core.read_model(str(path)), self.target, options)
            request = compiled.create_infer_request()
            names = {name for port in compiled.inputs for name in port.get_names()}
            run = partial(request.infer, {name: a for name, a in feeds.items() if name in names})
            run()
        except DeviceError:
            raise
        except Exception as error:  # OpenVINO's exceptions share no base class of their own
            message = " ".join(str(error).split())
            raise DeviceError(
                f"OpenVINO cannot run model {model.graph.name!r} on {self.target}: {message}",
                "compare with --latency-backend onnxruntime; a newer OpenVINO may do better",
            ) from error
        return run
