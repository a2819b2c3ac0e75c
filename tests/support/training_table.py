"""Operators that can be trained through: the table of docs/trainability.md.

python tests/support/training_table.py        writes it again
"""

from __future__ import annotations

from places import ROOT

import onnxprune.ops.axes  # noqa: F401 - fills the table
from onnxprune.ops.axes.blocking import REASONS as BLOCKED
from onnxprune.ops.spec import SPECS, load
from onnxprune.train.dialect import NEWER
from onnxprune.train.engines import STOCK
from onnxprune.train.pullbacks import PULLBACKS
from onnxprune.train.rewrites import REWRITES
from onnxprune.train.rewrites.registry import qualified
from onnxprune.train.support import DIFFERENTIABLE, NO_GRADIENT, REASONS, STOPS

TABLE = ROOT / "docs/trainability.md"
CONVERTED = {"Upsample": "Resize", "Scatter": "ScatterElements"}
OWN, SPELLED, NONE = "own gradient", "spelled in others", "none needed"
INTRODUCTION = """\
# What can be trained through

Every operator that pruning follows, and what `finetune` does about its gradient. Each one that can be
trained has a network in `tests/unit/train/test_training_rewrites.py` that is trained for one step and
compared with central differences of the loss (≤ 1e-3, relative). `python tests/support/training_table.py`
writes this table, and a test keeps it true.

There are two engines: the stock one, which writes a step as a graph for the onnxruntime that is there, and
onnxruntime-training 1.19.2 (`setup-training`). `--engine auto` takes the first that can train a model.

* **own gradient**: the engine has one, and it is right.
* **spelled in others**: it has none, or a wrong one; what is trained has other operators in its place.
* **none needed**: its result does not change smoothly with anything that is trained.
* All others stop `finetune`, which names the node, before anything is spent, but only where a gradient has to
  pass on its way from the loss to a weight.

Some forms of an operator are refused though others are trained: recurrent layers with peepholes, clipping or
sequences of different lengths; Resize with a region of interest; Scatter with a reduction;
MeanVarianceNormalization over the batch; Einsum with an ellipsis; sizes known at run time only, where
a spelling needs them.

"""
START = "<!-- networks -->"
NETWORKS = """\
## Networks of other people

Each loses 30 % of its multiply-accumulates and learns for five epochs what it said before
(`--loss distill`), from one batch of four samples of noise: enough to see that gradients arrive and the loss
falls, not to make up for anything. The light models come with onnx and have random weights; the others are
trained.
`python tests/support/training_corpus.py` writes this table.

"""


def operators() -> list[str]:
    """Every operator whose axes the rules follow."""
    blocked = {name for names in BLOCKED.values() for name in names.split()}
    load()
    known = [key for key, spec in SPECS.items() if spec.axes is not None]
    return sorted(qualified(name, domain) for domain, name in known if domain or name not in blocked)


def verdict(operator: str) -> tuple[str, str]:
    """Return how an operator is trained through, and as what; or nothing, and why not."""
    if operator in CONVERTED:
        return SPELLED, f"As {CONVERTED[operator]}, in a newer operator set."
    if operator in NEWER:
        return SPELLED, "As the specification has it, in an older operator set."
    if operator in REWRITES:
        return SPELLED, (REWRITES[operator].__doc__ or "").strip()
    if operator in DIFFERENTIABLE:
        return OWN, ""
    if operator in STOPS:
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
    return NONE if operator in STOPS else ""


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
