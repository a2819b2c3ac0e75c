"""A model with mapped weights, run in pieces: few weights in memory at a time, the same outputs."""

from __future__ import annotations

import networks_on_disk as disk
import numpy as np
from helpers import Net

from onnxprune.ir import load, reading
from onnxprune.repair.sweep import _near_end
from onnxprune.runtime import Session
from onnxprune.scoring.layerwise.trace import Trace
from onnxprune.support.mapped import byte_count

WIDTH, LAYERS = 160, 12


def test_few_weights_are_in_memory_at_a_time(tmp_path, monkeypatch):
    net = Net(seed=1)
    x = net.input("x", ["N", WIDTH])
    for _ in range(LAYERS):
        x = net.relu(net.op("MatMul", x, net.weight(WIDTH, WIDTH)))
    monkeypatch.setattr(reading, "MAP_ABOVE", 0)
    disk.save_external(net.proto(x), tmp_path / "model.onnx")
    model = load(tmp_path / "model.onnx", mapped=True)
    assert model.mapped
    feeds = [{"x": np.random.default_rng(k).normal(size=(4, WIDTH)).astype(np.float32)} for k in range(3)]
    name, held = model.outputs[0].name, []
    session_of = Trace._session

    def watched(self, numbers, names):
        read = {n for k in numbers for n in self.model.main.reads(k) if n in self.model.constants}
        held.append(sum(byte_count(self.model.constants[n]) for n in read))
        return session_of(self, numbers, names)

    monkeypatch.setattr(Trace, "_session", watched)
    trace = Trace(model, list(feeds))
    moved = _near_end(trace)
    found = [made[name] for made in moved.tensors(len(model.main.nodes), [name])]
    assert sum(held) >= LAYERS * 4 * WIDTH**2
    assert max(held) <= sum(held) / 4
    assert trace.position == 0
    for given, values in zip(feeds, found, strict=True):
        whole = Session(model.proto).run(given)[name]
        assert np.abs(values - whole).max() <= 1e-6 * np.abs(whole).max()
