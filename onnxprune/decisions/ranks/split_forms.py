"""The ways to split a kernel, and the ranks at which a split pays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from onnxprune.decisions.ranks.splittable_layers import RankLayer
from onnxprune.runtime import Array
from onnxprune.scoring.layerwise.low_rank_kernels import LowRank, Unfolding

FormName: TypeAlias = Literal["svd", "spatial", "tucker-2"]
MOST_RANKS = 24
"""Ranks that are offered of one form."""
_MOST_OUTER = 8
"""Numbers of channels behind the second product that are offered for each rank of a Tucker-2 form."""
_STEP = 8
"""Ranks are multiples of this, of less where the largest one is small."""


@dataclass(frozen=True)
class Form:
    """One way to split a kernel.

    Attributes:
        name: ``svd``, the whole kernel and then a product without places; ``spatial``, some of the axes of
            the kernel and then the others; ``tucker-2``, a product without places, the kernel, and another
            product without places.
        first: The axes of the kernel, from 0, that the first product has.
    """

    name: FormName
    first: tuple[int, ...]

    def shapes(self, shape: Sequence[int], ranks: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the shapes of the kernels, ``[groups, outputs, inputs, *kernel]``, the first to run first.

        Args:
            shape: That of the whole kernel.
            ranks: The channels between the products, of one group.
        """
        groups, outputs, inputs, *places = shape
        own = [size if k in self.first else 1 for k, size in enumerate(places)]
        later = [1 if k in self.first else size for k, size in enumerate(places)]
        widths = [inputs, *ranks, outputs]
        kernels = [own, later, [1] * len(places)]
        return [(groups, b, a, *k) for a, b, k in zip(widths, widths[1:], kernels, strict=False)]


@dataclass(frozen=True)
class RankOption:
    """A split of one layer, its costs and its loss.

    Attributes:
        form: The form.
        ranks: The channels between the products, of one group.
        macs: Multiply-accumulates of the chain, for one sample.
        params: Elements of its weights.
        error: The squared error of the result, divided by its variance.
    """

    form: Form
    ranks: tuple[int, ...]
    macs: float
    params: int
    error: float


def forms_of(layer: RankLayer, names: Sequence[FormName] = ()) -> list[Form]:
    """Return the forms that the kernel of a layer has.

    Args:
        layer: The layer.
        names: The names of the forms that are allowed; by default all.
    """
    kernel = layer.kernel_shape
    every = tuple(range(len(kernel)))
    wide = [k for k in every if kernel[k] > 1]
    found = [Form("svd", every)]
    if len(wide) > 1 and not layer.is_sized:
        parts: list[tuple[int, ...]] = [(k,) for k in wide]
        parts += [tuple(o for o in wide if o != k) for k in wide] if len(wide) > 2 else []
        found += [Form("spatial", part) for part in parts]
    if wide:
        found.append(Form("tucker-2", ()))
    return [form for form in found if not names or form.name in names]


def options_of(
    layer: RankLayer,
    kernel: Array,
    gram: Array,
    variance: float,
    forms: Sequence[Form],
    rank: int | None = None,
) -> list[RankOption]:
    """Return the splits of a layer that cost less than the layer, none dearer than a better one.

    Args:
        layer: The layer.
        kernel: Its kernel, ``[groups, outputs, inputs, *kernel]``.
        gram: The Gram matrices of its inputs, ``[groups, inputs × kernel, inputs × kernel]``.
        variance: The variance of its result, over all channels.
        forms: The forms that are tried.
        rank: The only rank that is wanted; of Tucker-2 forms both.
    """
    found = [option for form in forms for option in _of_form(layer, kernel, gram, variance, form, rank)]
    found.sort(key=lambda o: (o.error, o.macs, o.params))
    kept: list[RankOption] = []
    for option in found:
        if all(option.macs < k.macs or option.params < k.params for k in kept):
            kept.append(option)
    return kept


def factors_of(kernel: Array, gram: Array, option: RankOption) -> LowRank:
    """Return the kernels of a split.

    Args:
        kernel: ``[groups, outputs, inputs, *kernel]``.
        gram: ``[groups, inputs × kernel, inputs × kernel]``.
        option: The split.
    """
    unfolding = Unfolding(kernel, gram, option.form.first, option.ranks[0])
    rank, *outer = option.ranks
    return unfolding.factored(min(rank, unfolding.most), outer[0] if outer else None)


def at_full_ranks(layer: RankLayer, option: RankOption) -> RankOption:
    """Return a split of the same form with the numbers of channels between the products that lose nothing."""
    full = (_largest(layer, option.form), layer.shape[1])
    return replace(option, ranks=full[: len(option.ranks)])


def largest_rank(layer: RankLayer, forms: Sequence[Form]) -> int:
    """Return the largest rank at which some form costs less than the layer; 0 where none does."""
    return max((max(_paying(layer, form, _every(layer, form)), default=0) for form in forms), default=0)


def _of_form(
    layer: RankLayer, kernel: Array, gram: Array, variance: float, form: Form, only: int | None
) -> Iterator[RankOption]:
    """Yield the splits of one form that cost less than the layer."""
    ranks = _paying(layer, form, _ranks(_largest(layer, form)) if only is None else [only])
    if not ranks:
        return
    unfolding, outputs = Unfolding(kernel, gram, form.first, ranks[-1]), layer.shape[1]
    for rank in (r for r in ranks if r <= unfolding.most):
        behind: list[tuple[int, ...]] = [()]
        behind += [(n,) for n in _behind(outputs, only)] if form.name == "tucker-2" else []
        errors = unfolding.errors(rank) if len(behind) > 1 else [unfolding.error(rank)]
        for outer in behind:
            if _pays(layer, form, (rank, *outer)):
                error = float(errors[outer[0] if outer else -1]) / variance
                yield RankOption(form, (rank, *outer), *_costs(layer, form, (rank, *outer)), error)


def _costs(layer: RankLayer, form: Form, ranks: Sequence[int]) -> tuple[float, int]:
    """Return the multiply-accumulates and the elements of the weights of a split."""
    shapes = form.shapes(layer.shape, ranks)
    return layer.macs(shapes), sum(map(math.prod, shapes))


def _pays(layer: RankLayer, form: Form, ranks: Sequence[int]) -> bool:
    """Return whether a split costs less than the layer in MACs or parameters, and more in neither."""
    macs, params = _costs(layer, form, ranks)
    whole = layer.macs([layer.shape]), math.prod(layer.shape)
    return macs <= whole[0] and params <= whole[1] and (macs, params) != whole


def _paying(layer: RankLayer, form: Form, ranks: Sequence[int]) -> list[int]:
    """Return the ranks at which a form can pay at all."""
    least = (1,) if form.name == "tucker-2" and layer.shape[1] > 1 else ()
    return [rank for rank in ranks if _pays(layer, form, (rank, *least))]


def _every(layer: RankLayer, form: Form) -> range:
    return range(1, _largest(layer, form) + 1)


def _behind(outputs: int, only: int | None) -> list[int]:
    """Return the numbers of channels behind the second product that are offered."""
    if only is None:
        return _ranks(outputs - 1, _MOST_OUTER)
    return [only] if only < outputs else []


def _largest(layer: RankLayer, form: Form) -> int:
    """Return the largest rank of an unfolding, at which the split is exact."""
    _, outputs, inputs, *places = layer.shape
    own = math.prod(size for k, size in enumerate(places) if k in form.first)
    return min(inputs * own, outputs * math.prod(places) // own)


def _ranks(largest: int, most: int = MOST_RANKS) -> list[int]:
    """Return the ranks that are offered, ascending: multiples of a step, the larger the rarer."""
    step = max(1, min(_STEP, largest // _STEP))
    every = np.arange(step, max(largest, step) + 1, step)
    if len(every) > most:
        every = every[np.unique(np.geomspace(1, len(every), most).round().astype(int) - 1)]
    return [int(rank) for rank in every if rank <= largest]
