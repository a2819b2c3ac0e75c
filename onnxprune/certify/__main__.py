"""``python -m onnxprune.certify``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from onnxprune.certify.certificate import digest, from_json
from onnxprune.certify.certification import certify


def main(arguments: Sequence[str] | None = None) -> int:
    """Certify, and return the exit code: 0 certified, 1 refused, 2 wrong usage."""
    given = _parser().parse_args(arguments)
    try:
        models = {
            name: onnx.load(path)
            for name, path in (("sparse", given.sparse), ("dense", given.dense), ("original", given.original))
            if path is not None
        }
        kept, digests = (
            from_json(Path(given.certificate).read_text("utf-8")) if given.certificate else ({}, {})
        )
    except Exception as error:  # onnx raises errors of many kinds for files that are no models
        print(f"error: {error}", file=sys.stderr)
        return 2
    verdict = certify(models["sparse"], models["dense"], kept, models.get("original"))
    foreign = [side for side, expected in digests.items() if expected != digest(getattr(given, side))]
    facts: dict[str, Any] = {"sparse": given.sparse, "dense": given.dense}
    facts |= {"original": given.original} if given.original else {}
    facts |= {"certificate": given.certificate, "of_other_files": foreign} if given.certificate else {}
    facts |= verdict.facts()
    print(json.dumps(facts) if given.as_json else _sentence(facts, verdict.reason))
    return 0 if verdict.certified else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m onnxprune.certify",
        description="Show that a dense model computes what a sparse one does, for all inputs and sizes.",
    )
    parser.add_argument("sparse", help="the model whose channels are zero")
    parser.add_argument("dense", help="the model without them")
    parser.add_argument("certificate", nargs="?", help="hints that `transform --certificate` has written")
    parser.add_argument(
        "--original", help="also show that the sparse model is this one with some weights zero"
    )
    parser.add_argument("--json", dest="as_json", action="store_true", help="print one JSON object")
    return parser


def _sentence(facts: dict[str, Any], reason: str) -> str:
    if not facts["certified"]:
        models = ("sparse", "original") if facts["step"] == "sparse" else ("dense", "sparse")
        return f"refused: {facts[models[0]]} is not shown to be {facts[models[1]]}: {reason}"
    of = f", which is {facts['original']} with some weights zero" if "original" in facts else ""
    return f"certified for all inputs: {facts['dense']} computes what {facts['sparse']} does{of}"


if __name__ == "__main__":
    sys.exit(main())
