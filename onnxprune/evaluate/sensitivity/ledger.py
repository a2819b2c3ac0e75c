"""An analysis on disk that grows curve by curve, so that a run that was killed can go on.

The file is an analysis at any time, only not yet of all groups. Its origin is identified by a digest of
three parts: model, data and options. Where one of them differs the curves do not belong together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxprune.analysis.groups.blocks import PREFIX
from onnxprune.decisions.plan import PLAN_KEY, Analysis, Curve
from onnxprune.errors import PlanError, UsageError
from onnxprune.ir import Model, skeleton
from onnxprune.ir.output import check_output, write_text
from onnxprune.support.mapped import loaded

_PARTS = ("model", "data", "options")


def fingerprint(model: Model) -> str:
    """Return the SHA-256 of the function and the pruning of a model: nodes, constants, the plan in it."""
    digest = hashlib.sha256(skeleton(model.proto).SerializeToString(deterministic=True))
    for tensor in model.proto.graph.initializer:
        digest.update(loaded(tensor).SerializeToString(deterministic=True))
    digest.update(model.metadata().get(PLAN_KEY, "").encode())
    return digest.hexdigest()


def digest_of(model: Model, data: str, options: Mapping[str, Any]) -> str:
    """Return one digest with separate parts for model, data and options, so that differing parts are found.

    Args:
        model: The model.
        data: The digest of the data set.
        options: All options that determine the result, ready for JSON.
    """
    chosen = hashlib.sha256(json.dumps(dict(options), sort_keys=True).encode()).hexdigest()
    return "-".join(
        f"{name}:{part[:16]}" for name, part in zip(_PARTS, (fingerprint(model), data, chosen), strict=True)
    )


class Ledger:
    """Curves as they come in, written to a file each time.

    Args:
        blank: The analysis without curves.
        order: The groups it is to have, in the order of the file.
        path: The file; ``None`` keeps everything in memory.

    Attributes:
        analysis: Analysis with the curves so far.
    """

    def __init__(self, blank: Analysis, order: Sequence[str], path: Path | None) -> None:
        self.analysis = blank
        self._order = order
        self._path = path

    @property
    def missing(self) -> list[str]:
        """The groups and blocks that have no curve yet."""
        known = {**self.analysis.curves, **self.analysis.blocks}
        return [name for name in self._order if name not in known]

    def adopt(self, earlier: Analysis) -> None:
        """Take over the curves of a run that was interrupted."""
        self._enter({**earlier.curves, **earlier.blocks})

    def record(self, curves: Mapping[str, Curve]) -> None:
        """Add curves and write the file anew: whole, or not at all.

        Raises:
            OutputError: It cannot be written; the earlier file stays.
        """
        self._enter({**self.analysis.curves, **self.analysis.blocks, **curves})
        settings = {**self.analysis.settings, "complete": not self.missing}
        self.analysis = replace(self.analysis, settings=settings)
        if self._path is not None:
            write_text(self._path, self.analysis.to_json())

    def _enter(self, curves: Mapping[str, Curve]) -> None:
        """Let the analysis have some curves, those of groups apart from those of blocks."""
        found = {name: curves[name] for name in self._order if name in curves}
        blocks = {name: curve for name, curve in found.items() if name.startswith(PREFIX)}
        groups = {name: curve for name, curve in found.items() if name not in blocks}
        self.analysis = replace(self.analysis, curves=groups, blocks=blocks)


def check_place(path: Path, *, resume: bool, force: bool) -> None:
    """Refuse to write over an existing file without `resume` or `force`.

    Raises:
        UsageError: There is a file, and neither option is given.
        OutputError: The place cannot be written to.
    """
    check_output(path)
    if path.exists() and not (resume or force):
        raise UsageError(
            f"{path} is there already", "`resume` goes on with it, `force` replaces it; or name another file"
        )


def earlier_analysis(path: Path, digest: str, settings: Mapping[str, Any], *, force: bool) -> Analysis | None:
    """Read the analysis file of an earlier run.

    Args:
        path: The file.
        digest: The digest of this run.
        settings: The options of this run, for a message that names differing ones.
        force: True to start over where the file cannot be gone on with.

    Returns:
        The analysis; ``None`` where there is nothing to go on with.

    Raises:
        PlanError: The file is of another model, other data or other options, or is damaged.
    """
    if not path.exists():
        return None
    try:
        found = read_analysis(path)
        if found.digest != digest:
            raise PlanError(
                f"{path} is the analysis of {_difference(found, digest, settings)}",
                "name another file, or start over with `force`",
            )
    except PlanError:
        if force:
            return None
        raise
    return found


def read_analysis(path: str | Path) -> Analysis:
    """Read an analysis from a file.

    Raises:
        PlanError: There is none.
    """
    path = Path(path)
    try:
        return Analysis.from_json(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"cannot read {path}: {error}", "give the file that `ana` wrote") from error


def _difference(found: Analysis, digest: str, settings: Mapping[str, Any]) -> str:
    """Return the differences of two runs, in words."""
    earlier, now = ({p.partition(":")[0]: p for p in d.split("-")} for d in (found.digest, digest))
    differing = [name for name in _PARTS if earlier.get(name) != now[name]]
    words = {"model": "another model", "data": "other data", "options": "other options"}
    text = " and ".join(words[name] for name in differing)
    changed = [
        f"{k} was {found.settings.get(k)!r}" for k, v in settings.items() if found.settings.get(k) != v
    ]
    return f"{text} ({', '.join(changed)})" if "options" in differing and changed else text
