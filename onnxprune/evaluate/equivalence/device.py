"""The comparison on the device in use, after the one on the CPU.

A device rounds in its own way, so its noise is measured: the reference on the device against the reference on
the CPU. The candidate on the device may be as far off as that, with a factor for chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from onnxprune.analysis.inputs import feeds_that_run
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.equivalence.verdict import Verdict
from onnxprune.ir import Model
from onnxprune.runtime import Array, ExecutionConfig, Session, difference
from onnxprune.runtime.execution import current

TOLERANCE = 1e-3
"""Allowed error of a device, relative to the largest element of an output, where its noise is below this."""
_FACTOR = 4.0
"""Allowed error in units of the device's measured noise."""
_SIZES = 3
"""Number of the compared sizes that are run on the device."""


@dataclass(frozen=True)
class DeviceErrors:
    """Errors relative to the largest element of each output, the worst of all runs.

    Attributes:
        noise: The reference on the device against the reference on the CPU.
        error: The candidate on the device against the reference on the CPU.
    """

    noise: float = 0.0
    error: float = 0.0

    @property
    def allowed(self) -> float:
        """The allowed error."""
        return max(TOLERANCE, _FACTOR * self.noise)


def with_device(reference: Model, candidate: Model, verdict: Verdict, seed: int = 0) -> Verdict:
    """Add the comparison on the device in use to a verdict; on the CPU the verdict is complete.

    Args:
        reference: The model that is right by definition.
        candidate: The model to be judged; its inputs and outputs have the shapes of the reference's.
        verdict: The verdict of the CPU.
        seed: Seed of the draws.
    """
    config = current()
    if config.is_cpu or not verdict.equal:
        return verdict
    try:
        found = _errors(reference, candidate, verdict.sizes[:_SIZES], config, seed)
    except OnnxpruneError as error:
        return replace(verdict, notes=(*verdict.notes, f"not compared on {config.name}: {error.message}"))
    if not math.isfinite(found.noise):
        note = (
            f"not compared on {config.name}: {reference.name} itself differs there from the CPU without bound"
        )
        return replace(verdict, notes=(*verdict.notes, note))
    deviation = f"on {config.name}: max_rel_error {found.error:.1e}, allowed {found.allowed:.1e}"
    if found.error > found.allowed:
        return replace(verdict, reason=f"the models differ {deviation}", differs=verdict.exact)
    return replace(verdict, notes=(*verdict.notes, deviation))


def _errors(
    reference: Model,
    candidate: Model,
    sizes: Any,
    config: ExecutionConfig,
    seed: int,
) -> DeviceErrors:
    """Run both models on the device, and the reference on the CPU."""
    cpu = Session(reference.proto, optimize=False)
    there = [Session(model.proto, execution=config) for model in (reference, candidate)]
    found = DeviceErrors()
    for shapes in sizes or [None]:
        feeds = feeds_that_run(reference, cpu, shapes, seed=seed)[0]
        right, noisy, other = (session.run(feeds) for session in (cpu, *there))
        found = DeviceErrors(max(found.noise, _worst(right, noisy)), max(found.error, _worst(right, other)))
    return found


def _worst(right: Mapping[str, Array], other: Mapping[str, Array]) -> float:
    """Return the largest relative error of the float outputs; picked integers may flip by rounding."""
    floats = {name: value for name, value in right.items() if value.dtype.kind in "fc" and name in other}
    return max((difference(value, other[name]).max_rel_error for name, value in floats.items()), default=0.0)
