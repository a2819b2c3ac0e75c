"""Files that hold samples, and how they lie in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onnxprune.errors import DataError

PICTURES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
WAVES = frozenset({".wav"})
TEXTS = frozenset({".jsonl"})
TABLES = frozenset({".csv", ".tsv"})
TOKENIZER = "tokenizer.json"
SETTINGS = "preprocessor_config.json"
"""The preprocessing of pictures and sound beside the files, in the format of Hugging Face's processors."""


def shards(folder: Path) -> list[Path]:
    """Return the ``.npz`` files of a folder in the order of their names.

    Raises:
        DataError: One of them is not a regular file.
    """
    found = sorted(folder.glob("*.npz"))
    for path in found:
        if not path.is_file():
            raise DataError(f"{path} is not a regular file", "a folder of data holds .npz files")
    return found


def sample_files(folder: Path) -> list[Path]:
    """Return the pictures and sounds of a folder and of its folders, one for each class, by their names."""
    return sorted(p for p in _listed(folder) if p.suffix.lower() in PICTURES | WAVES)


def label_lists(folder: Path) -> list[Path]:
    """Return the tables in a folder of samples, which may list classes."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in TABLES and p.is_file())


def data_files_of(folder: Path) -> Iterator[Path]:
    """Yield all files of a folder of data: shards, pictures, sounds, settings."""
    yield from shards(folder)
    yield from sample_files(folder)
    if (folder / SETTINGS).is_file():
        yield folder / SETTINGS


def _listed(folder: Path) -> Iterator[Path]:
    """Yield the regular files of a folder and of the folders in it; hidden ones are left out."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from (p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        elif path.is_file():
            yield path
