"""Table of defaults: the quality that `prune` leaves with each criterion, plan and repair, without training.

    python benchmarks/defaults.py --folder DIR [NETWORK…] [--reductions 0.5] [--samples 128] [--json FILE]

Trained networks and their samples are those of `networks.py`, which names the packages and the commands that
make the files of DIR. Samples are unlabelled; the score is that on other ones. Rows are options: the default
of each kind first, and ways that differ from it by one option. A cell that is better than the default of its
kind by more than two standard errors of the paired difference is marked with `!`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from networks import Network, difference, networks

from onnxprune.errors import OnnxpruneError
from onnxprune.passes import Ana, Prune
from onnxprune.passes.base import PassResult
from onnxprune.runtime import Array

Way = Mapping[str, Any]
PLAIN = "samples (default)"
MEASURED = "samples and analysis (default)"
BLIND = "no samples (default)"
WAYS: Mapping[str, Mapping[str, Way]] = {
    PLAIN: {
        "`--rotate never`": {"rotate": "never"},
        "`--criterion l2`": {"criterion": "l2"},
        "`--strategy uniform`": {"strategy": "uniform"},
    },
    MEASURED: {
        "`ana --no-repair`": {"ana": {"repair": False}},
    },
    BLIND: {
        "`--recover least-squares`": {"data": None, "recover": ("least-squares",)},
        "`--recover scale`": {"data": None, "recover": ("scale",)},
    },
}
KINDS = {"samples": PLAIN, "analysis": MEASURED, "blind": BLIND}
DEFAULTS: Mapping[str, Way] = {PLAIN: {}, MEASURED: {"ana": {}}, BLIND: {"data": None}}


def pruned(network: Network, way: Way, reduction: float) -> PassResult:
    """Return the sparse model that some options make, with its report."""
    shapes = {"input_shapes": network.shapes} if network.shapes else {}
    options = {"data": network.calibration, "threads": 1, **shapes, **way}
    measured = options.pop("ana", None)
    if measured is not None:
        how = {"ratios": (0.25, 0.5, 0.75), "threads": 1, **shapes, **measured}
        options["analysis"] = Ana(network.calibration, metric="kl", **how)(network.model).analysis
    return Prune(reduce_macs=reduction, **options)(network.model)


@dataclass(frozen=True)
class Cell:
    """The outcome of one way.

    Attributes:
        scores: Score of each sample; ``None`` where the way is refused.
        rotated: True if the model was rotated.
        why: Message of the refusal.
    """

    scores: Array | None
    rotated: bool = False
    why: str = ""


def cell(network: Network, way: Way, reduction: float, usual: Cell | None) -> Cell:
    """Return the outcome of one way, in the basis that the default has chosen."""
    if way == {"rotate": "never"} and usual is not None and not usual.rotated:
        return usual
    if usual is not None and usual.scores is not None and "ana" not in way:
        way = {"rotate": "always" if usual.rotated else "never", **way}
    try:
        result = pruned(network, way, reduction)
    except OnnxpruneError as error:
        return Cell(None, why=error.message)
    return Cell(network.scores(result.model), bool(result.facts.get("rotation", {}).get("kept")))


def column(
    network: Network, reduction: float, folder: Path | None, kinds: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Return the cells of one network by kind and row, and print them as they come."""
    whole = network.scores(network.model)
    cells = {"": {"unpruned": f"{whole.mean():.4f}"}}
    known: list[dict[str, Any]] = []
    for kind in kinds:
        ways = WAYS[kind]
        usual: Cell | None = None
        for row, way in {kind: DEFAULTS[kind], **ways}.items():
            start = time.perf_counter()
            found = cell(network, way, reduction, usual)
            taken = time.perf_counter() - start
            usual, scores, why = found if row == kind else usual, found.scores, found.why
            text, gain, error = "–", 0.0, 0.0
            if scores is not None:
                if usual is not None and usual.scores is not None:
                    gain, error = difference(scores, usual.scores)
                text = f"{scores.mean():.4f}{' !' if gain > max(2 * error, 1e-4) else ''}"
            cells.setdefault(kind, {})[row] = text
            known.append({"network": network.name, "reduction": reduction, "kind": kind, "row": row})
            known[-1] |= {"score": None if scores is None else float(scores.mean()), "seconds": taken}
            known[-1] |= {"gain": gain, "standard_error": error, "why": why, "rotated": found.rotated}
            print(f"# {network.name} −{reduction:.0%}: {kind}: {row}: {text} ± {error:.4f} {why}", end="")
            print(f" ({taken:.0f} s)", flush=True)
            if folder is not None:
                name = f"{network.name}-{reduction:g}-{kind.split()[0]}.json".replace(", ", "-").replace(
                    " ", "-"
                )
                (folder / name).write_text(json.dumps({"unpruned": float(whole.mean()), "cells": known}))
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--folder", type=Path, default=Path("out/networks"))
    parser.add_argument("--reductions", nargs="+", type=float, default=[0.5])
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--json", type=Path, help="Folder for the figures of each network.")
    parser.add_argument(
        "--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="Parts of the table."
    )
    options = parser.parse_args()
    kinds = [KINDS[name] for name in options.kinds]
    known = networks(options.folder, options.samples)
    columns = {}
    for name in options.networks or list(known):
        network = known[name]()
        for reduction in options.reductions:
            columns[f"{name} −{reduction:.0%} ({network.score})"] = column(
                network, reduction, options.json, kinds
            )
    print("| | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns))
    for kind, row in [(k, r) for k, rows in next(iter(columns.values())).items() for r in rows]:
        print(f"| {row} | " + " | ".join(cells[kind][row] for cells in columns.values()) + " |")


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
