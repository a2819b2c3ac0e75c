"""Pruning without samples: weights rank the channels, and the rest is repaired on drawn inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxprune.errors import DataError
from onnxprune.ir import load
from onnxprune.ir.output import write_model
from onnxprune.passes.prune import Prune
from onnxprune.passes.transform import Transform

WEAKER = (
    "without samples channels are ranked by their weights and repaired on drawn inputs, which is weaker:"
    " --data brings back more, and measures it"
)


def shrink_without_data(
    model: str, output: str, reductions: Mapping[str, float], **how: Any
) -> dict[str, Any]:
    """Prune, repair on drawn inputs, and make dense.

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
    warnings = [WEAKER]
    try:
        pruned = Prune(recover=("least-squares",), **options)(given)
    except DataError as error:  # the drawn inputs make values that are not finite
        warnings.append(f"not repaired: {error.message}")
        pruned = Prune(recover=(), **options)(given)
    dense = Transform(seed=how.get("seed", 0))(pruned)
    size = write_model(dense.model, output, inputs=[model])
    facts = {k: v for k, v in dense.facts.items() if k != "groups"}
    return facts | {"model": model, "output": output, "size_bytes": size, "warnings": warnings}
