"""Finished steps of one run, taken over into the work folder of another."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from onnxprune.app.runner.journal import Facts, open_journal
from onnxprune.support.staging import publish, scratch_folder


def take_over(folder: Path, other: Path, names: Collection[str] | None = None) -> None:
    """Copy finished steps with their files from one work folder into another.

    A run there finds them done, where its recipe asks for the same. Steps of the same names are replaced. If
    the process is killed meanwhile, replaced steps are done again.

    Args:
        folder: Work folder that takes the steps; it is made if it is missing.
        other: Work folder that has them.
        names: Names of the steps; by default all.

    Raises:
        OutputError: A folder cannot be written to.
        UsageError: Another process works in one of them, or one is no work folder.
    """
    with open_journal(other, _silent) as source, open_journal(folder, _silent) as target:
        found = {n: entry for n, entry in source.entries.items() if names is None or n in names}
        chosen = {
            n: entry for n, entry in found.items() if all(source.path(f).is_file() for f in entry.files)
        }
        for file in {file for entry in chosen.values() for file in entry.files}:
            place = target.path(file)
            place.parent.mkdir(parents=True, exist_ok=True)
            with scratch_folder(place.parent) as scratch:
                shutil.copyfile(source.path(file), scratch / place.name)
                publish(scratch / place.name, place.parent)
        target.entries |= chosen
        target.header = target.header or dict(source.header)
        target.save()


def _silent(event: Facts) -> None:
    """Listen to the events of a folder in which nothing is done."""
