"""Peak memory and time of the commands on a large random decoder, as ratios to its file.

    python benchmarks/large_model.py --folder /tmp/large [--mb 300] [--types fp32] [--commands prune]

Writes a decoder (RMSNorm, attention, gated MLP) with random weights in external data, tensor by tensor, and
runs each command in a process of its own. Peaks are sampled from /proc/PID/status every 5 ms: resident pages
in all (VmHWM), private pages (RssAnon: allocated memory) and mapped pages of files (RssFile: the
system can drop these at any time). The same command on a decoder of 1 MB gives the fixed share of the
interpreter and its libraries, which is subtracted. Seconds are compared with reading and writing the file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PAGE = 4096
TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}
COMMANDS = ("inspect", "prune", "transform", "recover")
HEAD = 64
"""Width of an attention head."""


_FAMILY = ((2048, 5632, 32000), (1024, 2816, 8000), (512, 1408, 4000), (128, 384, 200))
"""Width, inner width and rows of the vocabulary."""


@dataclass(frozen=True)
class Decoder:
    """Sizes of a decoder.

    Attributes:
        width: Features of the residual stream.
        inner: Features of the gated MLP.
        layers: Number of layers.
        rows: Rows of the vocabulary.
    """

    width: int
    inner: int
    layers: int
    rows: int

    @classmethod
    def of(cls, parameters: int) -> Decoder:
        """Return a decoder of about so many parameters; of 1.1 B those of TinyLlama, queries as keys."""
        for width, inner, rows in _FAMILY:
            layers = round((parameters - 2 * rows * width) / (4 * width**2 + 3 * width * inner))
            if layers >= 2:
                break
        return cls(width, inner, max(layers, 1), rows)


class DataFile:
    """External data that are written one tensor at a time.

    Args:
        path: File to write.
        kind: Element type of the weights.
    """

    def __init__(self, path: Path, kind: int) -> None:
        self.path, self.kind = path, kind
        self.dtype = helper.tensor_dtype_to_np_dtype(kind)
        self.random = np.random.default_rng(0)
        self.tensors: list[TensorProto] = []
        self._stream = path.open("wb")

    def matrix(self, name: str, rows: int, columns: int) -> str:
        """Write a random matrix ``[rows, columns]``; return its name."""
        place = self._stream.seek(-(-self._stream.tell() // PAGE) * PAGE)
        scale = self.random.uniform(0.5, 1.5, columns).astype(np.float32) / rows**0.5
        for start in range(0, rows, 1024):
            block = self.random.standard_normal((min(1024, rows - start), columns), np.float32)
            self._stream.write((block * scale).astype(self.dtype).tobytes())
        tensor = TensorProto(name=name, data_type=self.kind, dims=[rows, columns])
        tensor.data_location = TensorProto.EXTERNAL
        length = rows * columns * self.dtype.itemsize
        for key, value in (("location", self.path.name), ("offset", place), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        return name

    def array(self, name: str, values: Any, dtype: Any = None) -> str:
        """Add a small constant, within the message."""
        self.tensors.append(numpy_helper.from_array(np.asarray(values, dtype or self.dtype), name))
        return name

    def close(self) -> None:
        """End the file."""
        self._stream.close()


def write_decoder(path: Path, size: Decoder, kind: int) -> None:
    """Write a decoder with random weights; its input is ``ids [batch, length]``, its output ``logits``."""
    data, nodes = DataFile(path.with_name(path.name + ".data"), kind), []

    def node(operator: str, operands: Sequence[str], name: str, **settings: Any) -> str:
        nodes.append(helper.make_node(operator, operands, [name], name=name, **settings))
        return name

    data.array("last", [-1], np.int64)
    data.array("epsilon", 1e-5)
    data.array("heads", [0, 0, size.width // HEAD, HEAD], np.int64)
    data.array("joined", [0, 0, size.width], np.int64)
    data.array("scale", HEAD**-0.5)

    def norm(x: str, name: str) -> str:
        squares = node("Mul", [x, x], f"{name}/squares")
        mean = node("ReduceMean", [squares, "last"], f"{name}/mean")
        root = node("Sqrt", [node("Add", [mean, "epsilon"], f"{name}/shifted")], f"{name}/root")
        plain = node("Div", [x, root], f"{name}/plain")
        return node("Mul", [plain, data.array(f"{name}.weight", np.ones(size.width))], f"{name}/out")

    def product(x: str, name: str, rows: int, columns: int) -> str:
        return node("MatMul", [x, data.matrix(f"{name}.weight", rows, columns)], f"{name}/out")

    def heads(x: str, name: str, order: Sequence[int]) -> str:
        whole = product(x, name, size.width, size.width)
        return node(
            "Transpose", [node("Reshape", [whole, "heads"], f"{name}/heads")], f"{name}/turned", perm=order
        )

    x = node("Gather", [data.matrix("embedding.weight", size.rows, size.width), "ids"], "embedding")
    for number in range(size.layers):
        layer = f"layer{number}"
        y = norm(x, f"{layer}/norm1")
        q, k = heads(y, f"{layer}/q", (0, 2, 1, 3)), heads(y, f"{layer}/k", (0, 2, 3, 1))
        v = heads(y, f"{layer}/v", (0, 2, 1, 3))
        scores = node("Mul", [node("MatMul", [q, k], f"{layer}/scores"), "scale"], f"{layer}/scaled")
        mixed = node("MatMul", [node("Softmax", [scores], f"{layer}/softmax", axis=-1), v], f"{layer}/mixed")
        back = node("Transpose", [mixed], f"{layer}/back", perm=(0, 2, 1, 3))
        joined = node("Reshape", [back, "joined"], f"{layer}/joined")
        x = node("Add", [x, product(joined, f"{layer}/o", size.width, size.width)], f"{layer}/attended")
        y = norm(x, f"{layer}/norm2")
        gate = product(y, f"{layer}/gate", size.width, size.inner)
        gate = node("Mul", [gate, node("Sigmoid", [gate], f"{layer}/sigmoid")], f"{layer}/silu")
        gated = node("Mul", [gate, product(y, f"{layer}/up", size.width, size.inner)], f"{layer}/gated")
        x = node("Add", [x, product(gated, f"{layer}/down", size.inner, size.width)], f"{layer}/out")
    node("MatMul", [norm(x, "norm"), data.matrix("head.weight", size.width, size.rows)], "logits")
    data.close()
    graph = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("logits", kind, ["batch", "length", size.rows])],
        data.tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


@dataclass
class Usage:
    """The use of memory and time of one process.

    Attributes:
        total: Largest resident set, in bytes.
        private: Largest number of private bytes in it.
        mapped: Largest number of bytes of mapped files in it.
        seconds: Time it took.
        output: Text that it printed.
        code: Its exit status.
    """

    total: int = 0
    private: int = 0
    mapped: int = 0
    seconds: float = 0.0
    output: str = ""
    code: int = 0


_FIELDS = {"VmHWM": "total", "RssAnon": "private", "RssFile": "mapped"}


def measured(words: Sequence[str]) -> Usage:
    """Run a process, sampling its memory until it ends."""
    usage, start = Usage(), time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        watcher = threading.Thread(target=_watch, args=(process, usage))
        watcher.start()
        output, errors = process.communicate()
        watcher.join()
    usage.seconds, usage.code = time.perf_counter() - start, process.returncode
    usage.output = output if process.returncode == 0 else output + errors
    return usage


def _watch(process: subprocess.Popen[str], usage: Usage) -> None:
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return
        for line in lines:
            name, _, rest = line.partition(":")
            if name in _FIELDS:
                field_name = _FIELDS[name]
                setattr(usage, field_name, max(getattr(usage, field_name), int(rest.split()[0]) << 10))
        time.sleep(0.005)


@dataclass
class Bench:
    """The commands on one decoder.

    Attributes:
        folder: Folder of its files.
        name: Name of the decoder there.
    """

    folder: Path
    name: str
    words: dict[str, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        """State the command lines."""
        model, sparse, dense = (
            str(self.folder / f"{self.name}{end}.onnx") for end in ("", "-sparse", "-dense")
        )
        data = str(self.folder / "ids.npz")
        self.words = {
            "inspect": ["inspect", model],
            "prune": ["prune", model, "--reduce-params", "0.3", "--criterion", "l2", "-o", sparse],
            "transform": ["transform", sparse, "-o", dense],
            "recover": [
                "recover",
                sparse,
                "--original",
                model,
                "--data",
                data,
                "-o",
                f"{dense}-recovered.onnx",
            ],
        }

    def run(self, command: str) -> Usage:
        """Run one command."""
        return measured([sys.executable, "-m", "onnxprune", *self.words[command], "--json"])

    @property
    def size(self) -> int:
        """Bytes of the decoder's file and its data."""
        model = self.folder / f"{self.name}.onnx"
        return model.stat().st_size + model.with_name(model.name + ".data").stat().st_size


def copied_seconds(bench: Bench) -> float:
    """Return the seconds that reading and writing the data takes, the copy flushed to the disk."""
    source = bench.folder / f"{bench.name}.onnx.data"
    target, start = source.with_suffix(".copy"), time.perf_counter()
    with source.open("rb") as read, target.open("wb") as write:
        shutil.copyfileobj(read, write, 1 << 22)
        write.flush()
        os.fsync(write.fileno())
    target.unlink()
    return time.perf_counter() - start


def rows(
    folder: Path, megabytes: int, types: Sequence[str], commands: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield the figures of each command on each decoder."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "ids.npz", ids=np.random.default_rng(0).integers(0, 200, (16, 16)))
    for kind in types:
        width = helper.tensor_dtype_to_np_dtype(TYPES[kind]).itemsize
        small, large = Bench(folder, f"{kind}-small"), Bench(folder, kind)
        for bench, size in ((small, 1), (large, megabytes)):
            write_decoder(folder / f"{bench.name}.onnx", Decoder.of(size * 1_000_000 // width), TYPES[kind])
        copied = copied_seconds(large)
        for command in commands:
            fixed, usage = small.run(command), large.run(command)
            if usage.code or fixed.code:
                print((usage if usage.code else fixed).output, file=sys.stderr)
            yield {
                "type": kind,
                "command": command,
                "file_bytes": large.size,
                "peak_bytes": usage.total,
                "private_bytes": usage.private,
                "mapped_bytes": usage.mapped,
                "fixed_bytes": fixed.total,
                "peak_ratio": usage.total / large.size,
                "peak_ratio_without_fixed": (usage.total - fixed.total) / large.size,
                "private_ratio": (usage.private - fixed.private) / large.size,
                "seconds": usage.seconds,
                "copy_seconds": copied,
                "time_ratio": usage.seconds / copied,
                "exit": usage.code,
            }


def _line(cells: Sequence[str]) -> str:
    return "  ".join(f"{cell:>9}" for cell in cells)


def main() -> None:
    """Print a table, and write the figures as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--mb", type=int, default=300)
    parser.add_argument("--types", nargs="+", default=list(TYPES), choices=list(TYPES))
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS[:3]), choices=COMMANDS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print(
        _line(
            ("type", "command", "file MB", "peak MB", "×file", "-fixed", "private", "mapped MB", "s", "×copy")
        )
    )
    found = []
    for row in rows(given.folder, given.mb, given.types, given.commands):
        found.append(row)
        sizes = [f"{row[key] / 1e6:.0f}" for key in ("file_bytes", "peak_bytes")]
        ratios = [f"{row[key]:.2f}" for key in ("peak_ratio", "peak_ratio_without_fixed", "private_ratio")]
        rest = [f"{row['mapped_bytes'] / 1e6:.0f}", f"{row['seconds']:.1f}", f"{row['time_ratio']:.1f}"]
        print(_line([row["type"], row["command"], *sizes, *ratios, *rest]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
