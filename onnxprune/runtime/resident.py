"""Arrays that several sessions read, uploaded to their device once.

A provider with a memory of its own copies its inputs at every run. Samples that many variants of a
network are measured on are the same each time: they stay on the device as long as their batch is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from onnxprune.runtime.library import onnxruntime

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Place: TypeAlias = "tuple[str, int]"
"""Name and number of a device, as onnxruntime counts them."""


class ResidentArrays(Mapping[str, Array]):
    """Arrays by name, which must not change from now on.

    Args:
        arrays: The arrays.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = dict(arrays)
        self._uploaded: dict[tuple[str, Place], Any] = {}

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def only(self, names: Iterable[str]) -> ResidentArrays:
        """Return some of the arrays, which share their uploads with these."""
        chosen = ResidentArrays({name: self._arrays[name] for name in names})
        chosen._uploaded = self._uploaded
        return chosen

    def on(self, name: str, place: Place) -> Any | None:
        """Return an array on a device; ``None`` where that has no room for it, or takes no such type."""
        key = name, place
        if key not in self._uploaded:
            try:
                made = onnxruntime().OrtValue.ortvalue_from_numpy(self._arrays[name], *place)
            except Exception:  # onnxruntime's exceptions share no base class of their own
                made = None
            self._uploaded[key] = made
        return self._uploaded[key]


def run_resident(session: Any, names: list[str], feeds: ResidentArrays, place: Place, options: Any) -> Any:
    """Run an ``onnxruntime.InferenceSession`` on arrays of a device; return the outputs as arrays.

    Args:
        session: The session.
        names: Outputs to compute.
        feeds: Inputs.
        place: The device of the session.
        options: Options of the run.
    """
    binding = session.io_binding()
    for name in feeds:
        value = feeds.on(name, place)
        if value is None:
            binding.bind_cpu_input(name, np.ascontiguousarray(feeds[name]))
        else:
            binding.bind_ortvalue_input(name, value)
    for name in names:
        binding.bind_output(name)
    session.run_with_iobinding(binding, options)
    return binding.copy_outputs_to_cpu()
