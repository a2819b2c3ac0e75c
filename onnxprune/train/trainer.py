"""The trainer in the worker: steps, running average of the weights, return from bad steps.

A step whose loss or gradient is not finite, or whose loss is out of all proportion, is not taken. The weights
then go back to where they last were well, and from there on every step is half as long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxprune.train.optimizers import Trainable, make_optimizer
from onnxprune.train.wire import Array, WireMessage

KEEP_EVERY = 50
"""Good steps after which a place to go back to is remembered."""
DIVERGED = 1000.0
"""Times the first loss, or times one where that is less, from which on a loss is out of all proportion."""


class Trainer:
    """Weights in training.

    Args:
        trainables: Tensors to train, by name: views of the runtime's own buffers.
        statistics: Running statistics that follow, by name: such views, too.
        fields: Fields of `load`: `optimizer`, its `options`, and `average`, the decay of the running
            average of the weights, or None for none.
    """

    def __init__(
        self,
        trainables: Mapping[str, Trainable],
        statistics: Mapping[str, Array],
        fields: Mapping[str, Any],
    ) -> None:
        self._trainables = trainables
        self._optimizer = make_optimizer(fields["optimizer"], list(trainables.values()), fields["options"])
        self._live = {name: tensor.weight for name, tensor in trainables.items()} | dict(statistics)
        self._decay = fields["average"]
        self._average = {n: a.copy() for n, a in self._live.items()} if self._decay is not None else {}
        self._scale, self._first = 1.0, math.nan
        self._kept = self._copied()

    def step(self, loss: float, learning_rate: float, batches: int) -> dict[str, Any]:
        """Take a step with the gradients in the buffers, or go back.

        Args:
            loss: Loss of the batches; not finite if that of one is not.
            learning_rate: Step size of the schedule.
            batches: Number of batches that the gradients are the sum of.

        Returns:
            Norm of the mean gradient, the step size used, and whether it went back instead.
        """
        if batches > 1:
            for tensor in self._trainables.values():
                np.multiply(tensor.gradient, 1.0 / batches, out=tensor.gradient)
        self._first = loss if math.isnan(self._first) else self._first
        rate, norm = self._scale * learning_rate, math.nan
        if loss <= DIVERGED * max(self._first, 1.0):
            norm = self._optimizer.step(rate)
        if math.isfinite(norm):
            self._follow()
        else:
            self._go_back()
        return {"gradient_norm": norm, "learning_rate": rate, "went_back": not math.isfinite(norm)}

    def weights(self) -> dict[str, Array]:
        """Return the trained tensors and statistics, or their running average, as they are now."""
        return self._average or self._live

    def state(self) -> WireMessage:
        """Return the state that determines all further steps, and keep it as the state to go back to."""
        self._kept = self._copied()
        fields = {"updates": self._optimizer.updates, "scale": self._scale, "first": self._first}
        return WireMessage("state", fields, self._kept)

    def restore(self, state: WireMessage) -> None:
        """Go on from a state."""
        self._optimizer.updates = state.fields["updates"]
        self._scale, self._first = state.fields["scale"], state.fields["first"]
        self._write(state.arrays)
        self._kept = self._copied()

    def _follow(self) -> None:
        """Update the running average, with a smaller decay in early steps to forget the initial weights."""
        updates = self._optimizer.updates
        if self._decay is not None:
            share = 1.0 - min(self._decay, (1 + updates) / (10 + updates))
            for name, average in self._average.items():
                average += share * (self._live[name] - average)
        if updates % KEEP_EVERY == 0:
            self._kept = self._copied()

    def _go_back(self) -> None:
        self._write(self._kept)
        self._scale /= 2

    def _tensors(self) -> dict[str, Array]:
        """Return every array that lasts from step to step."""
        tensors = {f"weight:{name}": array for name, array in self._live.items()}
        tensors |= {f"average:{name}": array for name, array in self._average.items()}
        for index, slot in enumerate(self._optimizer.slots):
            names = (f"slot {index}:{name}" for name in self._trainables)
            tensors |= dict(zip(names, slot, strict=True))
        return tensors

    def _copied(self) -> dict[str, Array]:
        return {name: array.copy() for name, array in self._tensors().items()}

    def _write(self, values: Mapping[str, Array]) -> None:
        for name, array in self._tensors().items():
            array[...] = values[name]
