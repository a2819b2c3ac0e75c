"""Recovery without any data: inputs drawn at random, to which the statistics of normalisations are adapted.

The input is noise. Each BatchNormalization of the original takes the statistics of its present operand, so
that its result has the mean and deviation of training, channel by channel. On these activations the sparse
model is repaired like on any others; the change of a normalisation's statistics is carried over to those in
the file. In the spirit of M. Nagel et al., "Data-free quantization through weight equalization
and bias correction", 2019, and Y. Cai et al., "ZeroQ", 2020, without their gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.analysis.inputs import feeds_that_run
from onnxprune.ir import Model
from onnxprune.ops.spec import spec_of
from onnxprune.repair.model_pair import ModelPair
from onnxprune.runtime import Array, Session
from onnxprune.scoring.layerwise.batch_statistics import renewed

_SMALLEST = 4
"""Axes shorter than this are taken for channels, not for places."""
_ROUGHEST, _SMOOTHEST = 0.0, 2.0
"""Between these the exponents of the amplitude spectra are drawn; photographs have about 1."""


def noise(
    model: Model,
    session: Session,
    shapes: Mapping[str, tuple[int, ...]],
    samples: int,
    batch: int,
    seed: int,
) -> list[dict[str, Array]]:
    """Draw inputs: noise with spectra like those of pictures where there are places, else valid values.

    D. J. Field, "Relations between the statistics of natural images and the response properties of cortical
    cells", 1987: amplitudes fall with a power of the frequency. Every sample has mean 0 and deviation 1.

    Args:
        model: The model.
        session: The same, ready to run.
        shapes: Whole shapes by input name, where the file leaves them open.
        samples: Number of samples, at least.
        batch: Samples a run, where the file leaves it open.
        seed: The same seed gives the same inputs.
    """
    runs = -(-samples // batch)
    feeds = feeds_that_run(model, session, shapes, given=shapes, batch=batch, samples=runs, seed=seed)
    random = np.random.default_rng([seed, 1])
    return [{name: _coloured(values, random) for name, values in feed.items()} for feed in feeds]


def _coloured(values: Array, random: np.random.Generator) -> Array:
    """Give noise a spectrum that falls, another one for every sample."""
    axes = tuple(a for a in range(2, values.ndim) if values.shape[a] >= _SMALLEST)
    if values.dtype.kind != "f" or not axes or not values.std():
        return values
    frequency = np.zeros([1] * values.ndim)
    for axis in axes:
        line = np.fft.fftfreq(values.shape[axis])
        frequency = frequency + np.square(line).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    frequency[frequency == 0] = np.square(1 / max(values.shape[a] for a in axes))
    falls = random.uniform(_ROUGHEST, _SMOOTHEST, (len(values), *[1] * (values.ndim - 1)))
    spectrum = np.fft.fftn(values.astype(np.float64), axes=axes) * frequency ** (-falls / 2)
    made = np.fft.ifftn(spectrum, axes=axes).real
    others = tuple(range(1, values.ndim))
    made -= made.mean(others, keepdims=True)
    made /= np.maximum(made.std(others, keepdims=True), 1e-12)
    return made.astype(values.dtype)


@dataclass(frozen=True)
class SyntheticPair:
    """Two models whose normalisations go by the statistics of drawn inputs, and the way back.

    Attributes:
        pair: The models to repair.
        means: For each mean of a normalisation, the value in the file and its replacement.
        variances: Likewise.
    """

    pair: ModelPair
    means: Mapping[str, tuple[Array, Array]]
    variances: Mapping[str, tuple[Array, Array]]

    @classmethod
    def on(cls, pair: ModelPair, feeds: Sequence[Mapping[str, Array]], threads: int | None) -> SyntheticPair:
        """Put copies of two models on drawn inputs."""
        before, after = pair.original, renewed(pair.original, feeds, threads)
        sparse, means, variances = pair.sparse.copy(), {}, {}
        for node in before.nodes:
            statistics = spec_of(node).statistics
            if not statistics or node.input[statistics[0]] not in before.constants:
                continue
            mean, variance = (node.input[k] for k in statistics)
            stored = sparse.array(mean), sparse.array(variance)
            wide = before.array(variance)
            factor = np.divide(after.array(variance), wide, out=np.ones_like(wide), where=wide > 0)
            means[mean] = stored[0], stored[0] + (after.array(mean) - before.array(mean))
            variances[variance] = stored[1], stored[1] * factor
        for name, (_, put) in (means | variances).items():
            sparse.set_array(name, put)
        return cls(replace(pair, sparse=sparse, original=after), means, variances)

    def leave(self) -> Model:
        """Return the repaired sparse model with statistics for the data it was trained on."""
        sparse = self.pair.sparse
        for name, (stored, put) in self.means.items():
            sparse.set_array(name, stored + (sparse.array(name) - put))
        for name, (stored, put) in self.variances.items():
            ratio = np.divide(sparse.array(name), put, out=np.ones_like(put), where=put > 0)
            sparse.set_array(name, stored * ratio)
        return sparse
