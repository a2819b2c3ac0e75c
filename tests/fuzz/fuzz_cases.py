"""A case: files in a folder, most of them spoilt, and the command lines that read them.

Everything is drawn from one number, so that a case can be made again.
"""

from __future__ import annotations

import io
import random
import shutil
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import networks_on_disk as disk
import numpy as np
import onnx
import recipes
from fuzz_models import mutate
from fuzz_texts import mutated_bytes, mutated_json, mutated_toml
from ideas import IDEAS
from places import CASES

_LARGEST_SEED = 200_000
"""Bytes up to which a network is a seed: the larger are no different, only slower."""
PRUNE = ("--reduce-channels", "0.5", "--round-to", "1", "--criterion", "l2")
KINDS = {"model": 70, "bytes": 4, "sparse": 8, "texts": 8, "data": 6, "report": 3, "recipe": 1}


@dataclass(frozen=True)
class Case:
    """One case of the fuzzer.

    Attributes:
        number: Seed of its draws.
        kind: Which files are spoilt.
        seed: The network or the file it started from.
        commands: Command lines, run one after the other; names count from the case's folder.
    """

    number: int
    kind: str
    seed: str
    commands: tuple[tuple[str, ...], ...]


def write_corpus(folder: Path) -> None:
    """Write the networks and files that mutants are made of: with weights of their own, all valid."""
    models = folder / "models"
    models.mkdir(parents=True)
    for name, idea in sorted(IDEAS.items()):
        proto = idea.build()
        if proto.ByteSize() <= _LARGEST_SEED:
            disk.save(proto, models / f"{name}.onnx")
    for path in sorted(CASES.glob("*.onnx")):
        if path.stat().st_size <= _LARGEST_SEED:
            shutil.copy(path, models / path.name)
    model = disk.save(disk.network(), folder / "model.onnx")
    disk.save_data(folder / "data.npz", **disk.samples(8))
    _made("prune", model, *PRUNE, "--plan-out", folder / "plan.json", "-o", folder / "sparse.onnx")
    _made("ana", model, "--data", folder / "data.npz", "--ratios", "0.5", "-o", folder / "analysis.json")
    (folder / "limits.json").write_text(
        '{"keep_at_least": {"conv1": 4}, "exclude": ["conv2"], "only": ["*"]}'
    )
    (folder / "made").mkdir()
    _made("run", recipes.write_recipe(folder / "made"))


def _made(*words: object) -> None:
    done = disk.run(*words)
    assert done.code == 0, done.err


def write_case(number: int, corpus: Path, folder: Path) -> Case:
    """Write the files of a case into an empty folder."""
    draw = random.Random(number)
    kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
    seed, commands = _WRITERS[kind](draw, corpus, folder)
    return Case(number, kind, seed, tuple(tuple(map(str, words)) for words in commands))


def _model(draw: random.Random, corpus: Path, folder: Path) -> tuple[str, list[tuple[object, ...]]]:
    """A network that is changed, inspected, and often pruned as well."""
    source = draw.choice(sorted((corpus / "models").glob("*.onnx")))
    proto = onnx.ModelProto.FromString(source.read_bytes())
    mutate(proto, draw)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return source.stem, _use_model(draw, path, folder)


def _bytes(draw: random.Random, corpus: Path, folder: Path) -> tuple[str, list[tuple[object, ...]]]:
    """A network whose file is damaged."""
    source = draw.choice(sorted((corpus / "models").glob("*.onnx")))
    path = folder / "model.onnx"
    path.write_bytes(mutated_bytes(source.read_bytes(), draw))
    return source.stem, _use_model(draw, path, folder)


def _use_model(draw: random.Random, path: Path, folder: Path) -> list[tuple[object, ...]]:
    inspect = ("inspect", path, "--json")
    prune = ("prune", path, *PRUNE, "-o", folder / "sparse.onnx")
    chosen = draw.randrange(10)
    if chosen < 5:
        return [inspect, prune, ("transform", folder / "sparse.onnx", "-o", folder / "dense.onnx")]
    rest = (
        ("transform", path, "-o", folder / "dense.onnx"),
        ("verify", path, path),
        ("bench", path, "--runs", "1"),
    )
    init = ("init", path, "-o", folder / "recipe.toml")
    return [inspect, draw.choice((*rest, init))] if chosen < 8 else [inspect]


def _sparse(draw: random.Random, corpus: Path, folder: Path) -> tuple[str, list[tuple[object, ...]]]:
    """A sparse model that is changed, its plan included."""
    proto = onnx.ModelProto.FromString((corpus / "sparse.onnx").read_bytes())
    mutate(proto, draw)
    if draw.random() < 0.6:
        for note in proto.metadata_props:
            note.value = mutated_json(note.value, draw)
    path = folder / "sparse.onnx"
    path.write_bytes(proto.SerializeToString())
    transform = ("transform", path, "-o", folder / "dense.onnx")
    recover = (
        "recover",
        path,
        "--original",
        corpus / "model.onnx",
        "--samples",
        "8",
        "-o",
        folder / "r.onnx",
    )
    again = ("prune", path, "--reduce-channels", "0.7", "--round-to", "1", "-o", folder / "again.onnx")
    return "sparse", [draw.choice((transform, transform, recover, again))]


def _texts(draw: random.Random, corpus: Path, folder: Path) -> tuple[str, list[tuple[object, ...]]]:
    """An analysis, a plan or limits that are changed."""
    name = draw.choice(("analysis", "plan", "limits"))
    path = folder / f"{name}.json"
    path.write_bytes(
        mutated_json((corpus / path.name).read_text("utf-8"), draw).encode("utf-8", "surrogatepass")
    )
    how: tuple[object, ...] = () if name == "plan" else PRUNE[: 4 if name == "analysis" else 6]
    commands = [("prune", corpus / "model.onnx", f"--{name}", path, *how, "-o", folder / "out.onnx")]
    if name == "analysis" and draw.random() < 0.3:
        data = ("--data", corpus / "data.npz", "--ratios", "0.5")
        commands = [("ana", corpus / "model.onnx", *data, "--resume", "-o", path)]
    return name, commands


def _data(draw: random.Random, corpus: Path, folder: Path) -> tuple[str, list[tuple[object, ...]]]:
    """Samples whose archive is changed."""
    path = folder / "data.npz"
    if draw.random() < 0.3:
        path.write_bytes(mutated_bytes((corpus / "data.npz").read_bytes(), draw))
    else:
        _write_archive(draw, path)
    bench = ("bench", corpus / "model.onnx", "--runs", "1", "--data", path, "--metric", "top1")
    ana = (
        "ana",
        corpus / "model.onnx",
        "--data",
        path,
        "--samples",
        "4",
        "--ratios",
        "0.5",
        "-o",
        folder / "a.json",
    )
    verify = ("verify", corpus / "sparse.onnx", corpus / "sparse.onnx", "--data", path, "--samples", "4")
    return "data", [draw.choice((bench, ana, verify))]


_SHAPES = (
    "(8, 3, 8, 8)",
    "(8,)",
    "()",
    "(2**40, 3, 8, 8)",
    "(100000000, 3, 8, 8)",
    "(-1, 3, 8, 8)",
    "(8, 0, 8, 8)",
    "x",
)
_TYPES = (
    "<f4",
    "<f8",
    "<f2",
    "<i8",
    "|O",
    "|u1",
    "<U5",
    "|V8",
    ">f4",
    "<c8",
    "[('a', '<f4')]",
    "<f4'*9+'",
    "<M8[s]",
)


def _write_archive(draw: random.Random, path: Path) -> None:
    """Write arrays with headers that may not fit the data behind them."""
    compression = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, array in disk.samples(8).items():
            content = io.BytesIO()
            np.save(content, array)
            text = content.getvalue()
            if draw.random() < 0.6:
                kind, order = draw.choice(_TYPES), draw.choice(("False", "True", "7"))
                header = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {draw.choice(_SHAPES)}, }}"
                body = array.tobytes()[: draw.choice((None, 100, 0))]
                text = (
                    b"\x93NUMPY\x01\x00"
                    + (118).to_bytes(2, "little")
                    + header.ljust(117).encode()[:117]
                    + b"\n"
                    + body
                )
            if draw.random() < 0.2:
                text = mutated_bytes(text, draw)
            archive.writestr(
                draw.choice((f"{name}.npy",) * 6 + ("image.npy", "labels.npy", "../x.npy", "x")), text
            )
            if draw.random() < 0.1:
                break


def _report(draw: random.Random, corpus: Path, folder: Path) -> tuple[str, list[tuple[object, ...]]]:
    """The work folder of a run whose state is changed."""
    shutil.copytree(corpus / "made", folder / "made")
    state = folder / "made" / "work" / "state.json"
    state.write_bytes(mutated_json(state.read_text("utf-8"), draw).encode("utf-8", "surrogatepass"))
    page = ("report", folder / "made" / "work", "-o", folder / draw.choice(("page.html", "page.md")))
    again = ("run", folder / "made" / "recipe.toml")
    return "state", [page] if draw.random() < 0.8 else [again]


def _recipe(draw: random.Random, corpus: Path, folder: Path) -> tuple[str, list[tuple[object, ...]]]:
    """A recipe that is changed; where it still is one, the run in its folder goes on."""
    shutil.copytree(corpus / "made", folder / "made")
    path = folder / "made" / "recipe.toml"
    path.write_bytes(mutated_toml(path.read_text("utf-8"), draw).encode("utf-8", "surrogatepass"))
    return "recipe", [("run", path)]


_WRITERS = {
    "model": _model,
    "bytes": _bytes,
    "sparse": _sparse,
    "texts": _texts,
    "data": _data,
    "report": _report,
    "recipe": _recipe,
}
