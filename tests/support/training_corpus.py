"""Networks of other people, pruned and then trained without labels: a table of docs/trainability.md.

    python tests/support/training_corpus.py        writes it again in five minutes; needs the training runtime

Each network loses 30 % of its multiply-accumulates and is trained for five epochs towards its former outputs
(`--loss distill`), on one batch of four samples of noise: enough to show that gradients arrive and the loss
falls, not to recover accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from corpus import Case, cases, opened
from training_table import START, TABLE

from onnxprune.analysis.shapes import fitting_shapes
from onnxprune.errors import OnnxpruneError
from onnxprune.ir import Model
from onnxprune.passes import Finetune, Prune
from onnxprune.runtime import Session

END = "<!-- end of networks -->"
SAMPLES, EPOCHS = 4, 5
SMALL = 64
"""Size of picture axes that a file leaves open."""


@dataclass(frozen=True)
class Learnt:
    """The result of training one network.

    Attributes:
        losses: The loss before each epoch.
        stopped: The obstacle, if it cannot be trained.
    """

    losses: tuple[float, ...] = ()
    stopped: str = ""

    def row(self, name: str) -> str:
        """Return the line of the table."""
        losses = " → ".join(f"{loss:.3g}" for loss in (*self.losses[:1], *self.losses[-1:]))
        return f"| {name} | {losses} | {self.stopped} |"


def networks() -> Iterator[Case]:
    """Yield the light models and the trained ones."""
    found = [case for case in cases() if case.trained or case.name.startswith("light/")]
    return iter(sorted(found, key=lambda case: not case.trained))


def learnt(case: Case) -> Learnt:
    """Prune a network and train it without labels."""
    try:
        model = opened(case)
        sparse = Prune(reduce_macs=0.3)(model)
        step = Finetune(
            _noise(model),
            loss="distill",
            teacher=model,
            epochs=EPOCHS,
            batch_size=SAMPLES,
            lr=1e-3,
            threads=2,
        )
        return Learnt(tuple(step(sparse).facts["losses"]))
    except OnnxpruneError as error:
        return Learnt(stopped=str(getattr(error, "message", error)).splitlines()[0])


def _noise(model: Model) -> dict[str, np.ndarray]:
    """Draw samples for every input."""
    random, shapes = np.random.default_rng(0), fitting_shapes(model, None)
    arrays = {}
    for spec in Session(model.proto, optimize=False).inputs:
        known = shapes.get(spec.name) or spec.shape
        sizes = [
            d if isinstance(d, int) else k or SMALL for d, k in zip(spec.shape[1:], known[1:], strict=True)
        ]
        values = random.normal(size=(SAMPLES, *sizes)) if spec.shape else np.full(SAMPLES, 16000)
        arrays[spec.name] = values.astype(spec.dtype)
    return arrays


def table() -> str:
    """The table, network by network."""
    lines = ["", "| network | loss, first → last epoch | obstacle |", "|---|---:|---|"]
    for case in networks():
        lines.append(learnt(case).row(case.name))
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n\n"


if __name__ == "__main__":
    written = TABLE.read_text("utf-8")
    before, _, rest = written.partition(START)
    TABLE.write_text(before + START + "\n" + table() + END + rest.partition(END)[2], "utf-8")
