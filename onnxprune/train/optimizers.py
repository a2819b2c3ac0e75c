"""Stochastic gradient descent and AdamW in numpy, on the worker's own parameter and gradient buffers.

Masked entries are exact: where a mask is False the weight starts at zero, and its gradient is set to zero
before any use, so that momentum, decay and clipping keep it at zero.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.train.wire import Array


@dataclass(frozen=True)
class Trainable:
    """A tensor being trained.

    Attributes:
        weight: Its values, changed in place.
        gradient: Gradient of the loss, used up in place.
        mask: Mask of the elements that may be non-zero, broadcastable to the weight; None for all of it.
    """

    weight: Array
    gradient: Array
    mask: Array | None = None

    @property
    def decays(self) -> bool:
        """Return whether weight decay applies: to matrices and kernels, not to biases and scales."""
        return self.weight.ndim >= 2


class Optimizer(ABC):
    """A rule that turns gradients into steps.

    Args:
        trainables: Tensors to train. Masked weights are zeroed here and now.
        weight_decay: Strength of the decay.
        clip_norm: Largest global norm of the gradient; None for no limit.

    Attributes:
        updates: Number of steps taken.
    """

    def __init__(
        self, trainables: Sequence[Trainable], weight_decay: float = 0.0, clip_norm: float | None = None
    ) -> None:
        self.trainables = trainables
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.updates = 0
        for tensor in trainables:
            if tensor.mask is not None:
                np.multiply(tensor.weight, tensor.mask, out=tensor.weight)

    def step(self, learning_rate: float) -> float:
        """Mask, measure and clip the gradient, then step, unless the gradient is not finite.

        Returns:
            Global norm of the masked gradient before clipping.
        """
        norm = self._masked_norm()
        if not math.isfinite(norm):
            return norm
        if self.clip_norm is not None and norm > self.clip_norm:
            for tensor in self.trainables:
                np.multiply(tensor.gradient, self.clip_norm / norm, out=tensor.gradient)
        self.updates += 1
        self._update(learning_rate)
        return norm

    @property
    @abstractmethod
    def slots(self) -> Sequence[Sequence[Array]]:
        """Optimiser state: lists with one array for each trainable."""

    @abstractmethod
    def _update(self, learning_rate: float) -> None:
        """Move the weights."""

    def _masked_norm(self) -> float:
        total = 0.0
        for tensor in self.trainables:
            if tensor.mask is not None:
                np.multiply(tensor.gradient, tensor.mask, out=tensor.gradient)
            total += float(np.vdot(tensor.gradient, tensor.gradient))
        return math.sqrt(total)


class Sgd(Optimizer):
    """Gradient descent with heavy-ball momentum (Polyak 1964), decay added to the gradient.

    Args:
        trainables: Tensors to train.
        weight_decay: Strength of the decay.
        clip_norm: Largest global norm of the gradient.
        momentum: Fraction of the last step that is kept.
    """

    def __init__(
        self,
        trainables: Sequence[Trainable],
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        momentum: float = 0.9,
    ) -> None:
        super().__init__(trainables, weight_decay, clip_norm)
        self._momentum = momentum
        self._velocity = [np.zeros_like(tensor.weight) for tensor in trainables]

    @property
    def slots(self) -> Sequence[Sequence[Array]]:
        """The velocities."""
        return (self._velocity,)

    def _update(self, learning_rate: float) -> None:
        for tensor, velocity in zip(self.trainables, self._velocity, strict=True):
            velocity *= self._momentum
            velocity += tensor.gradient
            if self.weight_decay and tensor.decays:
                velocity += self.weight_decay * tensor.weight
            np.subtract(tensor.weight, learning_rate * velocity, out=tensor.weight)


class AdamW(Optimizer):
    """Adam with bias correction and decoupled weight decay (Loshchilov and Hutter 2019).

    Args:
        trainables: Tensors to train.
        weight_decay: Fraction of the weight removed per unit of learning rate.
        clip_norm: Largest global norm of the gradient.
        betas: Decay of the running mean of the gradient and of its square.
        epsilon: Keeps the division finite.
    """

    def __init__(
        self,
        trainables: Sequence[Trainable],
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(trainables, weight_decay, clip_norm)
        self._betas = betas
        self._epsilon = epsilon
        self._mean = [np.zeros_like(tensor.weight) for tensor in trainables]
        self._square = [np.zeros_like(tensor.weight) for tensor in trainables]

    @property
    def slots(self) -> Sequence[Sequence[Array]]:
        """The running means of the gradient and of its square."""
        return self._mean, self._square

    def _update(self, learning_rate: float) -> None:
        unbias_mean, unbias_square = (1 - beta**self.updates for beta in self._betas)
        for tensor, mean, square in zip(self.trainables, self._mean, self._square, strict=True):
            if self.weight_decay and tensor.decays:
                np.multiply(tensor.weight, 1 - learning_rate * self.weight_decay, out=tensor.weight)
            scratch = tensor.gradient - mean
            scratch *= 1 - self._betas[0]
            mean += scratch
            np.multiply(tensor.gradient, tensor.gradient, out=scratch)
            scratch -= square
            scratch *= 1 - self._betas[1]
            square += scratch
            np.sqrt(square, out=scratch)
            scratch += self._epsilon * math.sqrt(unbias_square)
            np.divide(mean, scratch, out=scratch)
            scratch *= learning_rate * math.sqrt(unbias_square) / unbias_mean
            np.subtract(tensor.weight, scratch, out=tensor.weight)


def make_optimizer(
    name: str, trainables: Sequence[Trainable], options: Mapping[str, float | None]
) -> Optimizer:
    """Make an optimiser by its name.

    Args:
        name: `sgd` or `adamw`.
        trainables: Tensors to train.
        options: `weight_decay`, `clip_norm` and `momentum`.
    """
    decay, clip = options["weight_decay"] or 0.0, options["clip_norm"]
    if name == "sgd":
        return Sgd(trainables, decay, clip, options["momentum"] or 0.0)
    return AdamW(trainables, decay, clip)
