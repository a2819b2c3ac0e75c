"""The Python interface: errors of passes, and parameters that are easily confused."""

from __future__ import annotations

import networks_on_disk as disk
import pytest

from onnxprune.errors import ModelError, UsageError
from onnxprune.ir import Model
from onnxprune.passes import Ana, Prune


def test_the_text_of_an_error_carries_its_hint():
    assert str(ModelError("it is damaged", "export it again")) == "it is damaged (hint: export it again)"
    assert str(ModelError("it is damaged")) == "it is damaged"


@pytest.mark.parametrize("parameter", ["exclude", "only"])
@pytest.mark.parametrize("made", [Prune, lambda **given: Ana(data="data.npz", **given)])
def test_a_text_is_not_read_letter_by_letter(made, parameter):
    options = {"reduce_macs": 0.3} if made is Prune else {}
    with pytest.raises(UsageError, match=f"{parameter} takes a list of names") as caught:
        made(**options, **{parameter: "stem"})(Model(disk.network()))
    assert caught.value.hint == f"write {parameter}=['stem']"
