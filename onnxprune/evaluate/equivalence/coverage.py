"""Every row of the tables that integer inputs index, fed at least once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxprune.analysis.inputs.ladder import Shapes, enlarged
from onnxprune.errors import ModelError
from onnxprune.evaluate.equivalence.draws import drawn
from onnxprune.evaluate.equivalence.tensor_comparison import ReferenceRun
from onnxprune.ir import Model
from onnxprune.runtime import Array, TensorSpec
from onnxprune.support.processors import ProcessorClock

_RUNS = 8
_MOST_ELEMENTS = 8192


def covering(
    model: Model,
    specs: Sequence[TensorSpec],
    shapes: Shapes,
    rows: Mapping[str, int],
    run: Callable[[ReferenceRun], bool],
    seconds: float,
    fits: Callable[[Shapes], bool] = lambda shapes: True,
) -> list[str]:
    """Feed every row number of the table that each integer input indexes, as far as the time goes, but some.

    Args:
        model: The model.
        specs: Its inputs.
        shapes: Input shapes that are known to work.
        rows: The number of rows by input name.
        run: Function from inputs to true if the model takes them.
        seconds: Time limit, in seconds.
        fits: Function from shapes to true if a run of them is small enough; the known ones always are.

    Returns:
        One sentence for each input whose numbers were not all fed.
    """
    notes = []
    sizes = {n: int(np.prod(shape)) for n, shape in shapes.items()}
    bounded = {n: h for n, h in rows.items() if sizes.get(n)}
    watch = ProcessorClock()
    for name, high in bounded.items():
        elements = sizes[name]
        factor = max(1, min(math.ceil(high / (elements * _RUNS)), _MOST_ELEMENTS // elements))
        wide = enlarged(model, shapes, factor)
        while factor > 1 and not fits(wide):
            factor //= 2
            wide = enlarged(model, shapes, factor)
        numbers = np.random.default_rng(0).permutation(high)
        fed = 0
        while fed < high and (not fed or watch.seconds < seconds / 2):
            feed = _feed(model, specs, wide)
            if feed:
                feed[name] = _chunk(numbers, fed, feed[name])
            if not feed or not run(ReferenceRun(feed, f"all rows for '{name}'")):
                if wide == shapes:
                    break
                wide = shapes
                continue
            fed += feed[name].size
        if fed < high:
            notes.append(f"{fed} of the {high} rows that '{name}' may pick were fed")
    return notes


def _feed(model: Model, specs: Sequence[TensorSpec], shapes: Shapes) -> dict[str, Array]:
    """Draw inputs of some shapes; none where the network is known to take no such sizes."""
    try:
        return drawn(model, specs, shapes)[0]
    except ModelError:
        return {}


def _chunk(numbers: Array, start: int, like: Array) -> Array:
    """Return the next numbers in the shape and type of an array, from the start again at the end."""
    places = (start + np.arange(like.size)) % len(numbers)
    return numbers[places].reshape(like.shape).astype(like.dtype)
