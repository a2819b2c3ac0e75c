"""Operators that can be trained through: the table of docs/trainability.md.

python tests/support/training_table.py        writes it again
"""

from __future__ import annotations

from places import ROOT

import onnxprune.ops.axes  # noqa: F401 - fills the table
from onnxprune.ops.axes.blocking import REASONS as BLOCKED
from onnxprune.ops.spec import SPECS, find_spec, load
from onnxprune.train.dialect import NEWER
from onnxprune.train.engines import STOCK
from onnxprune.train.gradient_support import DIFFERENTIABLE, NO_GRADIENT, REASONS
from onnxprune.train.pullbacks import PULLBACKS
from onnxprune.train.rewrites import REWRITES
from onnxprune.train.rewrites.registry import qualified

TABLE = ROOT / "docs/trainability.md"
CONVERTED = {"Upsample": "Resize", "Scatter": "ScatterElements"}
OWN, SPELLED, NONE = "own gradient", "spelled in others", "none needed"
INTRODUCTION = """\
# Operators with a gradient

The table lists every operator with an axes rule and its gradient in `finetune`. Each trainable operator has a
network in `tests/unit/train/test_training_rewrites.py`, which is trained for one step and compared with
central differences of the loss (≤ 1e-3, relative). `python tests/support/training_table.py` writes the table;
a test compares it with the code.

There are two engines. The stock engine writes a step as a graph for the installed onnxruntime. The other is
onnxruntime-training 1.19.2 (`setup-training`). `--engine auto` takes the first one that can train a model.

* **own gradient**: the engine has a correct gradient.
* **spelled in others**: the engine has no gradient or a wrong one. Other operators replace it
  during training.
* **none needed**: the result does not change smoothly with any trained value.
* **no**: `finetune` stops before training and names the node, if a gradient has to pass through the operator
  from the loss to a weight.

Some forms of a trainable operator are refused: recurrent layers with peepholes, clipping or
sequences of different lengths; Resize with a region of interest; Scatter with a reduction;
MeanVarianceNormalization over the batch; Einsum with an ellipsis; sizes that only the run determines, where
the replacement needs them.

"""
START = "<!-- networks -->"
NETWORKS = """\
## Third-party networks

Each network is pruned by 30 % of its multiply-accumulates and trained for five epochs towards its original
outputs (`--loss distill`), on one batch of four samples of noise. The test shows that gradients arrive and
the loss falls; it recovers no accuracy. The light models come with onnx and have random weights; the others
are trained. `python tests/support/training_corpus.py` writes this table.

"""


def operators() -> list[str]:
    """Every operator whose axes the rules follow."""
    blocked = {name for names in BLOCKED.values() for name in names.split()}
    load()
    known = [key for key, spec in SPECS.items() if spec.axes is not None]
    return sorted(qualified(name, domain) for domain, name in known if domain or name not in blocked)


def verdict(operator: str) -> tuple[str, str]:
    """Return the training of an operator and its form; or nothing and the reason."""
    if operator in CONVERTED:
        return SPELLED, f"As {CONVERTED[operator]}, in a newer operator set."
    if operator in NEWER:
        return SPELLED, "As the specification has it, in an older operator set."
    if operator in REWRITES:
        return SPELLED, (REWRITES[operator].__doc__ or "").strip()
    if operator in DIFFERENTIABLE:
        return OWN, ""
    if _is_discrete(operator):
        return NONE, ""
    return "", REASONS.get(operator, NO_GRADIENT)


def verdict_of_stock(operator: str) -> str:
    """Return how the stock engine trains through an operator; nothing if it does not."""
    if operator in CONVERTED or operator in NEWER:
        return SPELLED
    if operator in PULLBACKS:
        return OWN
    if operator in STOCK.rewrites:
        return SPELLED
    return NONE if _is_discrete(operator) else ""


def _is_discrete(operator: str) -> bool:
    domain, _, name = operator.rpartition(".")
    return find_spec(domain, name).discrete


def table() -> str:
    """The document up to the networks, which `training_corpus` writes."""
    rows = [(operator, verdict_of_stock(operator), *verdict(operator)) for operator in operators()]
    stock, other = (sum(bool(row[column]) for row in rows) for column in (1, 2))
    lines = [
        f"{stock} of {len(rows)} operators with the stock engine, {other} with onnxruntime-training:",
        "",
    ]
    lines += ["| operator | stock | ort-training | |", "|---|---|---|---|"]
    lines += [f"| {name} | {own or '**no**'} | {how or '**no**'} | {why} |" for name, own, how, why in rows]
    return INTRODUCTION + "\n".join(lines) + "\n\n" + NETWORKS


if __name__ == "__main__":
    kept = TABLE.read_text("utf-8").partition(START)
    TABLE.write_text(table() + kept[1] + kept[2], "utf-8")
