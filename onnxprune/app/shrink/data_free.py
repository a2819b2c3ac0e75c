"""Pruning without samples: weights rank the channels; where statistics are stored, the rest is repaired."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxprune.errors import DataError
from onnxprune.ir import load
from onnxprune.ir.output import write_model
from onnxprune.ops.spec import spec_of
from onnxprune.passes.prune import Prune
from onnxprune.passes.transform import Transform

WEAKER = "without samples channels are ranked by their weights, which is weaker: give some with --data"
NO_STATISTICS = "not repaired: no BatchNormalization is left to say how real samples look"


def shrink_without_data(
    model: str, output: str, reductions: Mapping[str, float], **how: Any
) -> dict[str, Any]:
    """Prune, repair on drawn inputs, and make dense.

    Drawn inputs look like samples only through the statistics of BatchNormalization: without these a repair
    fits the layers to noise, and lowers the accuracy (`benchmarks/defaults.py`, rows without samples).

    Args:
        model: The file.
        output: File to write the result to.
        reductions: The budget by kind, ``macs`` for instance.
        how: Other options of `Prune`.

    Returns:
        Facts to report, ready for JSON.

    Raises:
        OnnxpruneError: The budget cannot be met, or the result not be proven.
    """
    given = load(model)
    options = {f"reduce_{kind}": amount for kind, amount in reductions.items()} | how
    normalised = any(spec_of(node).statistics for node in given.all_nodes)
    warnings = [WEAKER] if normalised else [WEAKER, NO_STATISTICS]
    try:
        pruned = Prune(recover=("least-squares",) if normalised else (), **options)(given)
    except DataError as error:  # the drawn inputs make values that are not finite
        warnings.append(f"not repaired: {error.message}")
        pruned = Prune(recover=(), **options)(given)
    dense = Transform(seed=how.get("seed", 0))(pruned)
    size = write_model(dense.model, output, inputs=[model])
    facts = {k: v for k, v in dense.facts.items() if k != "groups"}
    return facts | {"model": model, "output": output, "size_bytes": size, "warnings": warnings}
