"""A latency back-end that is a Python callable: from a model file and its inputs to milliseconds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.errors import DeviceError
from onnxprune.runtime.backends.backend import FIGURES_HINT, Done, LatencyBackend, checked_figures, ignore
from onnxprune.runtime.backends.fixed_models import write_fixed
from onnxprune.runtime.latency_measurement import Latency, summary
from onnxprune.runtime.session import Feeds
from onnxprune.support.callables import load_callable, user_code
from onnxprune.support.progress import track


@dataclass(frozen=True)
class Function(LatencyBackend):
    """A callable that times one model file a call.

    Attributes:
        name: ``module:callable``.
        function: From the path of a model file and its inputs, arrays by name, to the milliseconds of one
            run, or of several runs.
    """

    name: str
    function: Callable[[str, Feeds], Any]

    @classmethod
    def of(cls, reference: str) -> Function:
        """Import a callable.

        Raises:
            DataError: It is not there.
        """
        return cls(reference, load_callable(reference))

    @property
    def device(self) -> str:
        """The name of the device."""
        return self.name

    def measure(
        self,
        models: Sequence[onnx.ModelProto],
        feeds: Sequence[Feeds],
        *,
        rounds: int = 50,
        threads: int | None = None,
        done: Done = ignore,
    ) -> list[Latency]:
        """Call the function once for each model."""
        found = []
        with tempfile.TemporaryDirectory(prefix="onnxprune-latency-") as folder:
            for k, (model, feed) in enumerate(
                track(list(zip(models, feeds, strict=True)), "measure latency")
            ):
                path = write_fixed(model, feed, Path(folder) / f"model-{k}.onnx")
                found.append(summary(self._figures(path, feed)))
                done(k, found[-1])
        return found

    def _figures(self, path: Path, feeds: Feeds) -> list[float]:
        with user_code(self.name):
            value = self.function(str(path), dict(feeds))
        try:
            figures = np.atleast_1d(np.asarray(value, np.float64)).ravel().tolist()
        except (TypeError, ValueError):
            raise DeviceError(
                f"{self.name} returned {type(value).__name__}, which is no time", FIGURES_HINT
            ) from None
        return checked_figures(figures, self.name)
