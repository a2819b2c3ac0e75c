"""A small network in a file, good data for it, and the command line run in this process."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from onnxprune.app.cli import main

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, 8, 8] image) => (float[N, 4] logits) {
    a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, w1, b1)
    b = Relu (a)
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (b, w2, b2)
    d = Relu (c)
    e = GlobalAveragePool (d)
    f = Flatten (e)
    logits = Gemm <transB = 1> (f, w3, b3)
}
"""
CLASSES = 4


def network(text: str = TEXT, **replaced: np.ndarray) -> onnx.ModelProto:
    """Two convolutions of 16 and 24 channels and a classifier."""
    random = np.random.default_rng(0)
    shapes = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (24, 16, 3, 3), "b2": (24,), "w3": (4, 24), "b3": (4,)}
    proto = onnx.parser.parse_model(text)
    for name, shape in shapes.items():
        values = replaced.get(name, random.normal(size=shape).astype(np.float32))
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    for name, node in zip(
        "conv1 relu1 conv2 relu2 pool flatten head".split(), proto.graph.node, strict=False
    ):
        node.name = name
    return proto


def save(proto: onnx.ModelProto, path: Path) -> str:
    path.write_bytes(proto.SerializeToString())
    return str(path)


def save_external(proto: onnx.ModelProto, path: Path, location: str = "weights.bin") -> str:
    """Write a model whose weights lie in a file beside it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    onnx.save_model(copy, path, save_as_external_data=True, location=location, size_threshold=0)
    return str(path)


def samples(count: int = 32) -> dict[str, np.ndarray]:
    """Arrays that fit the network."""
    random = np.random.default_rng(1)
    images = random.normal(size=(count, 3, 8, 8)).astype(np.float32)
    return {"image": images, "labels": random.integers(0, CLASSES, count)}


def save_data(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a command line."""

    code: int
    out: str
    err: str

    @property
    def facts(self) -> dict[str, Any]:
        """Standard output, which has to be one JSON object and nothing else."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    def refused(self, code: int = 1) -> str:
        """Check that the refusal has the form of the contract; return its text."""
        assert self.code == code, f"exit code {self.code}: {self.err}"
        assert self.out == ""
        assert "Traceback" not in self.err
        lines = self.err.splitlines()
        assert lines[0].startswith("error: "), self.err
        assert len(lines[0]) > len("error: ")
        assert lines[-1].startswith("hint: "), self.err
        assert len(lines[-1]) > len("hint: ")
        return self.err


def run(*words: object) -> Outcome:
    """Run a command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def tree(folder: Path) -> dict[str, bytes]:
    """All files and folders of a folder, to detect leftovers of a command."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()} | {
        f"{p.relative_to(folder)}/": b"" for p in folder.rglob("*") if p.is_dir()
    }
