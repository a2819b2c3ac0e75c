"""Rotation of attention: grouped queries, fused weights of queries, keys and values; certificates of it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from ideas import IDEAS

from onnxprune.certify import digest, to_json
from onnxprune.certify.__main__ import main
from onnxprune.evaluate.equivalence import CheckBudget
from onnxprune.ir import Model, check
from onnxprune.passes import Prune, Rotate, Transform
from onnxprune.passes import prune as prune_module
from onnxprune.passes import rotate as rotate_module

ORTHOGONAL, LINEAR = "orthogonal", "general linear"
AXES = {
    # keys and values of two heads serve four of queries: one map for each of the two
    "grouped_query_attention": [(2, 8, LINEAR, True), (2, 8, LINEAR, False)],
    # one weight holds queries, keys and values before the heads are cut: both sides of the sum in one tensor
    "vit_fused_split": [(1, 32, ORTHOGONAL, False), *[(4, 8, ORTHOGONAL, True)] * 2],
    # the weight is cut first: queries, keys and values are tensors of their own
    "vit_fused_cut_before_heads": [
        (1, 32, ORTHOGONAL, False),
        *[(4, 8, ORTHOGONAL, True), (4, 8, LINEAR, False)] * 2,
    ],
    "vit_layer_norm_op": [(1, 32, ORTHOGONAL, False), *[(4, 8, LINEAR, True), (4, 8, LINEAR, False)] * 2],
}
"""Parts, channels, maps and pairs of each rotated axis."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rotate_module, prune_module):
        monkeypatch.setattr(module, "_CHECK", CheckBudget(seconds=0.1))


@pytest.mark.parametrize("name", AXES)
def test_heads_are_rotated_by_a_map_each(name: str) -> None:
    model = check(Model(IDEAS[name].build()))
    rotated = Rotate()(model)
    found = [(a["parts"], a["size"], a["symmetry"], a["pairs"] > 0) for a in rotated.facts["axes"]]
    assert found == AXES[name]
    assert rotated.facts["max_rel_error"] <= 1e-5
    again = Rotate(like=rotated.model)(model).model
    assert {n: again.array(n).tobytes() for n in again.constants} == {
        n: rotated.model.array(n).tobytes() for n in rotated.model.constants
    }


@pytest.mark.parametrize("name", ["vit_fused_split", "vit_fused_cut_before_heads"])
def test_the_certificate_leads_from_the_rotated_to_the_dense_model(name: str, tmp_path: Path) -> None:
    files = {kind: str(tmp_path / f"{kind}.onnx") for kind in ("rotated", "sparse", "dense")}
    rotated = Rotate()(check(Model(IDEAS[name].build())))
    sparse = Prune(reduce_macs=0.3, round_to=1)(rotated)
    dense = Transform()(sparse)
    assert dense.facts["max_rel_error"] <= 1e-4
    removed = {n.removesuffix("#2").removesuffix("#3") for n in sparse.facts["groups"]}
    assert removed & {a["group"].removesuffix("#2").removesuffix("#3") for a in rotated.facts["axes"]}
    for kind, result in (("rotated", rotated), ("sparse", sparse), ("dense", dense)):
        onnx.save(result.model.proto, files[kind])
    hints = tmp_path / "kept.json"
    hints.write_text(to_json(dense.kept, digest(files["sparse"]), digest(files["dense"])), "utf-8")
    assert main([files["sparse"], files["dense"], str(hints), "--original", files["rotated"]]) == 0
