from __future__ import annotations

import pickle
import tracemalloc
import zipfile
from collections import deque
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.errors import DataError, UsageError
from onnxprune.evaluate.data import Batch, Dataset, class_axis, open_data
from onnxprune.runtime import TensorSpec

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]

IMAGE = TensorSpec("image", np.dtype(np.float32), ("N", 2, 3))
LOGITS = TensorSpec("logits", np.dtype(np.float32), ("N", 4))
INPUTS, OUTPUTS = (IMAGE,), (LOGITS,)


def samples(count: int = 10, first: int = 0) -> Arrays:
    """Samples that can be distinguished: every value of sample i is i."""
    numbers = np.arange(first, first + count)
    return {
        "image": np.broadcast_to(numbers[:, None, None], (count, 2, 3)).astype(np.float32),
        "labels": numbers % 4,
    }


def changed(**arrays: Any) -> Arrays:
    """The ten samples with some of their arrays replaced, or left out where None."""
    return {k: v for k, v in {**samples(), **arrays}.items() if v is not None}


def saved(path: Path, arrays: Arrays, compressed: bool = False) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)  # type: ignore[operator]
    return path


def numbers(batches: Iterator[Batch]) -> list[list[int]]:
    """The samples of each batch, after a check that labels went with their images."""
    found = []
    for batch in batches:
        row = batch.inputs["image"][:, 0, 0].astype(int)
        assert batch.size == len(row)
        assert batch.inputs["image"].dtype == np.float32
        np.testing.assert_array_equal(batch.inputs["image"], row[:, None, None] + np.zeros((1, 2, 3)))
        np.testing.assert_array_equal(batch.targets["labels"], row % 4)
        found.append(row.tolist())
    return found


def opened(spec: Any) -> Dataset:
    return open_data(spec, INPUTS, OUTPUTS)


@pytest.fixture(params=["file", "compressed", "folder", "memory", "callable"])
def ten(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    """The same ten samples from every kind of source."""
    if request.param == "memory":
        return opened(samples())
    if request.param == "callable":
        return opened(lambda: [(a, a.pop("labels")) for a in (samples(7), samples(3, 7))])
    if request.param == "folder":
        (tmp_path / "shards").mkdir()
        saved(tmp_path / "shards" / "b.npz", samples(4, 6))
        saved(tmp_path / "shards" / "a.npz", samples(6), compressed=True)
        (tmp_path / "shards" / "README.txt").write_text("not a shard")
        return opened(str(tmp_path / "shards"))
    return opened(saved(tmp_path / "d.npz", samples(), compressed=request.param == "compressed"))


class TestBatches:
    def test_in_order_and_the_rest_last(self, ten: Dataset) -> None:
        assert numbers(ten.batches(4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert numbers(ten.batches(100)) == [list(range(10))]
        assert numbers(ten.batches(1)) == [[i] for i in range(10)]

    def test_shuffled_anew_for_every_epoch(self, ten: Dataset) -> None:
        one = numbers(ten.batches(4, shuffle=True, seed=1, epoch=0))
        assert [len(b) for b in one] == [4, 4, 2]
        assert sorted(chain(*one)) == list(range(10))
        assert list(chain(*one)) != list(range(10))
        assert numbers(ten.batches(4, shuffle=True, seed=1, epoch=0)) == one
        assert numbers(ten.batches(4, shuffle=True, seed=1, epoch=1)) != one
        assert numbers(ten.batches(4, shuffle=True, seed=2, epoch=0)) != one

    def test_take(self, ten: Dataset) -> None:
        assert numbers(ten.take(7).batches(5)) == [[0, 1, 2, 3, 4], [5, 6]]
        assert numbers(ten.take(7).take(9).batches(9)) == [list(range(7))]
        assert sorted(chain(*numbers(ten.take(7).batches(5, shuffle=True)))) == list(range(7))
        assert numbers(ten.take(99).batches(99)) == [list(range(10))]
        with pytest.raises(UsageError, match="0 samples"):
            ten.take(0)

    def test_the_digest_is_that_of_the_content(self, ten: Dataset) -> None:
        assert ten.digest() == opened(samples()).digest()
        assert ten.take(9).digest() == opened(samples(9)).digest()
        assert ten.digest() != ten.take(9).digest()
        assert len(ten.digest()) == 64

    def test_batch_sizes_below_one(self, ten: Dataset) -> None:
        with pytest.raises(UsageError, match="batch of 0"):
            next(ten.batches(0))

    @given(
        st.lists(st.integers(1, 9), min_size=1, max_size=6),
        st.integers(1, 12),
        st.integers(1, 40),
        st.booleans(),
    )
    @settings(max_examples=60, deadline=None)
    def test_any_cut_gives_every_sample_once(
        self, sizes: list[int], batch_size: int, limit: int, shuffle: bool
    ) -> None:
        starts = np.cumsum([0, *sizes[:-1]])
        parts = [samples(n, int(s)) for n, s in zip(sizes, starts, strict=True)]
        dataset = opened(lambda: [(a["image"], a["labels"]) for a in parts]).take(limit)
        batches = numbers(dataset.batches(batch_size, shuffle=shuffle))
        total = min(sum(sizes), limit)
        assert sorted(chain(*batches)) == list(range(total))
        assert [len(b) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert len(batches) == -(-total // batch_size)


class TestDataset:
    def test_length(self, tmp_path: Path) -> None:
        dataset = opened(saved(tmp_path / "d.npz", samples()))
        assert len(dataset) == dataset.samples == 10
        assert len(dataset.take(3)) == 3
        endless = opened(lambda: iter([]))
        assert endless.samples is None
        with pytest.raises(TypeError, match="not known beforehand"):
            len(endless)

    def test_travels_to_other_processes(self, tmp_path: Path) -> None:
        for spec in (saved(tmp_path / "d.npz", samples()), "onnxprune.datasets:mnist_test"):
            dataset = opened(spec).take(6)
            copy = pickle.loads(pickle.dumps(dataset))
            assert (copy.name, copy.samples) == (dataset.name, dataset.samples)
        assert len(pickle.dumps(opened(saved(tmp_path / "e.npz", samples(5000))))) < 3000

    def test_a_dataset_is_a_dataset(self) -> None:
        dataset = opened(samples())
        assert opened(dataset) is dataset

    @pytest.mark.parametrize(
        "other",
        [
            changed(labels=(np.arange(10) + 1) % 4),
            changed(labels=None),
            changed(image=samples()["image"] + 0.5),
            changed(logits=np.zeros((10, 4), np.float32)),
        ],
    )
    def test_other_content_has_another_digest(self, other: Arrays) -> None:
        assert opened(samples()).digest() != opened(other).digest()

    def test_large_files_are_not_read_at_once(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "d.npz", {"image": np.ones((400_000, 2, 3), np.float32)})
        tracemalloc.start()
        try:
            for shuffle in (False, True):
                deque(opened(path).batches(64, shuffle=shuffle), maxlen=0)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 6e6  # of 9.6 MB; the shuffled order itself takes 3.2

    def test_fortran_order_and_empty_shards(self, tmp_path: Path) -> None:
        saved(tmp_path / "a.npz", changed(image=np.asfortranarray(samples()["image"])))
        saved(tmp_path / "b.npz", samples(0))
        assert numbers(opened(tmp_path).batches(10)) == [list(range(10))]

    def test_samples_of_different_sizes_do_not_share_a_batch(self) -> None:
        wide = TensorSpec("image", np.dtype(np.float32), ("N", "width"))
        parts = [np.zeros((n, w), np.float32) for n, w in ((3, 5), (2, 5), (2, 6), (1, 5))]
        dataset = open_data(lambda: [(p, None) for p in parts], [wide], [])
        shapes = [b.inputs["image"].shape for b in dataset.batches(4)]
        assert shapes == [(4, 5), (1, 5), (2, 6), (1, 5)]
        assert len(dataset.digest()) == 64

    def test_a_fixed_batch_does_not_bind_the_data(self) -> None:
        fixed = TensorSpec("image", np.dtype(np.float32), (1, 2, 3))
        assert numbers(open_data(samples(), [fixed], OUTPUTS).batches(4))[0] == [0, 1, 2, 3]

    def test_strings(self) -> None:
        text = TensorSpec("text", np.dtype(object), ("N",))
        dataset = open_data({"text": np.array(["a", "bc"])}, [text], [])
        assert next(dataset.batches(2)).inputs["text"].tolist() == ["a", "bc"]
        assert dataset.digest() != open_data({"text": np.array(["a", "b"])}, [text], []).digest()


class TestConversions:
    @pytest.mark.parametrize(
        ("given_type", "wanted"),
        [
            ("float64", "float32"), ("float16", "float32"), ("float32", "float64"), (">f4", "float32"),
            ("int32", "int64"), ("uint8", "int64"), ("int64", "int64"), ("bool", "bool"),
        ],
    )  # fmt: skip
    def test_types_that_are_converted(self, given_type: str, wanted: str) -> None:
        spec = TensorSpec("x", np.dtype(wanted), ("N",))
        batch = next(open_data({"x": np.array([0, 1], given_type)}, [spec], []).batches(2))
        assert batch.inputs["x"].dtype == np.dtype(wanted)
        assert batch.inputs["x"].tolist() == [0, 1]

    @pytest.mark.parametrize(
        ("given_type", "wanted"),
        [
            ("uint8", "float32"), ("int64", "float32"), ("bool", "float32"), ("float32", "int64"),
            ("int64", "int32"), ("uint64", "int64"), ("bool", "int64"), ("int8", "bool"), ("<U3", "float32"),
        ],
    )  # fmt: skip
    def test_types_that_are_not(self, given_type: str, wanted: str) -> None:
        spec = TensorSpec("x", np.dtype(wanted), ("N",))
        with pytest.raises(DataError, match=f"'x' in the arrays is of type .*, the model has x {wanted}"):
            open_data({"x": np.array([0, 1]).astype(given_type)}, [spec], [])

    @pytest.mark.parametrize("kind", ["uint8", "int32", "uint64", "int64"])
    def test_labels_of_any_integer_type(self, kind: str) -> None:
        batch = next(opened(changed(labels=samples()["labels"].astype(kind))).batches(10))
        assert batch.targets["labels"].dtype == np.int64

    def test_a_value_beyond_the_smaller_type(self) -> None:
        spec = TensorSpec("x", np.dtype(np.float16), ("N",))
        with pytest.raises(DataError, match="NaN or infinite once converted to float16"):
            next(open_data({"x": np.array([1e6])}, [spec], []).batches(1))

    def test_targets_named_like_outputs(self) -> None:
        batch = next(opened(changed(logits=np.ones((10, 4)))).batches(3))
        assert list(batch.inputs) == ["image"]
        assert set(batch.targets) == {"labels", "logits"}
        assert batch.targets["logits"].dtype == np.float32


class TestFaults:
    @pytest.mark.parametrize(
        ("arrays", "words"),
        [
            (changed(image=None), "lacks 'image'"),
            (changed(label=np.zeros(10), labels=None), "has 'label', which the model does not know"),
            ({"x": np.zeros((10, 2, 3), np.float32)}, "lacks 'image' and has 'x', which the"),
            (changed(image=np.zeros((10, 3, 2), np.float32)), r"shape \[10, 3, 2\].*float32\[N, 2, 3\]"),
            (changed(image=np.zeros((10, 2), np.float32)), r"shape \[10, 2\]"),
            (changed(image=np.zeros((), np.float32)), r"shape \[\]"),
            (changed(image=np.zeros((10, 2, 3), np.uint8)), "of type uint8, the model has image float32"),
            (changed(logits=np.zeros((10, 5), np.float32)), r"'logits' .* shape \[10, 5\]"),
            (changed(labels=np.zeros(9, np.int64)), r"number of samples \(image: 10, labels: 9\)"),
            (changed(labels=np.zeros(10)), "labels .* of type float64, not integers"),
            (changed(labels=np.zeros(10, bool)), "labels .* of type bool, not integers"),
            (changed(labels=np.eye(10)), r"not integers .*argmax\(1\)"),
            (changed(labels=np.int64(1)), "labels .* single value"),
        ],
    )  # fmt: skip
    def test_headers_show_wrong_arrays(self, arrays: Arrays, words: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=words):
            opened(arrays)
        with pytest.raises(DataError, match=words):
            opened(saved(tmp_path / "d.npz", arrays))
        targets = {k: v for k, v in arrays.items() if k in ("labels", "logits")}
        inputs = {k: v for k, v in arrays.items() if k not in targets}
        with pytest.raises(DataError, match=words):
            next(opened(lambda: [(inputs, targets)]).batches(4))

    def test_the_hint_lists_the_names_of_the_model(self) -> None:
        with pytest.raises(DataError) as caught:
            opened({"x": np.zeros(3)})
        assert "image float32[N, 2, 3]" in caught.value.hint
        assert "logits float32[N, 4]" in caught.value.hint
        assert "'labels'" in caught.value.hint

    @pytest.mark.parametrize(
        ("arrays", "words"),
        [
            (changed(image=np.full((10, 2, 3), np.nan, np.float32)), "'image' in d.npz .* NaN or infinite"),
            (changed(image=np.full((10, 2, 3), np.inf)), "NaN or infinite"),
            (changed(logits=np.full((10, 4), np.nan)), "'logits' .* NaN or infinite"),
            (changed(labels=np.arange(10)), "label 9 in d.npz is no class of the model, which has 0 to 3"),
            (changed(labels=np.arange(10) % 4 - 1), "label -1 "),
        ],
    )
    def test_values_show_wrong_arrays(self, arrays: Arrays, words: str, tmp_path: Path) -> None:
        dataset = opened(saved(tmp_path / "d.npz", arrays))
        with pytest.raises(DataError, match=words):
            list(dataset.batches(100))
        with pytest.raises(DataError, match=words.replace("label 9", r"label \d")):
            dataset.digest()

    def test_labels_of_a_model_with_open_classes(self) -> None:
        spec = TensorSpec("logits", np.dtype(np.float32), ("N", "C"))
        assert list(open_data(changed(labels=np.arange(10)), INPUTS, [spec]).batches(4))
        with pytest.raises(DataError, match=r"label -5 .* has 0 and above"):
            list(open_data(changed(labels=-np.arange(6, 16)[::-1] + 10), INPUTS, [spec]).batches(100))

    def test_labels_may_be_for_another_output_than_the_first(self) -> None:
        outputs = [TensorSpec("coarse", np.dtype(np.float32), ("N", 2)), LOGITS]
        assert list(open_data(samples(), INPUTS, outputs).batches(4))

    def test_no_samples(self, tmp_path: Path) -> None:
        for spec in (samples(0), saved(tmp_path / "d.npz", samples(0)), list):
            with pytest.raises(DataError, match="no samples in"):
                next(opened(spec).batches(4))

    def test_a_model_without_inputs(self) -> None:
        with pytest.raises(DataError, match="no inputs"):
            open_data({}, [], OUTPUTS)

    def test_pickled_objects_are_not_loaded(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "sprung",))

        path = saved(tmp_path / "d.npz", changed(image=np.array([Trap()] * 10, dtype=object)))
        with pytest.raises(DataError, match=r"'image' in d.npz holds Python objects"):
            opened(path)
        assert not (tmp_path / "sprung").exists()

    def test_missing_files_and_folders(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no data at"):
            opened(tmp_path / "missing.npz")
        with pytest.raises(DataError, match=r"no \.npz files, pictures or \.wav files in the folder"):
            opened(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [b"", b"not a zip", b"PK\x05\x06" + b"\0" * 10, b"\x93NUMPY\x01\0"],
        ids=["empty", "text", "zip", "npy"],
    )
    def test_files_that_are_not_npz(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "d.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"not a readable .npz file") as caught:
            opened(tmp_path / "d.npz")
        assert "numpy.savez" in caught.value.hint

    @pytest.mark.parametrize("compressed", [False, True])
    def test_truncated_and_damaged_files(self, compressed: bool, tmp_path: Path) -> None:
        noise = changed(image=np.random.default_rng(0).standard_normal((10, 2, 3)))
        whole = saved(tmp_path / "d.npz", noise, compressed).read_bytes()
        for cut in (10, len(whole) // 2, len(whole) - 30):
            (tmp_path / "cut.npz").write_bytes(whole[:cut])
            with pytest.raises(DataError, match="not a readable"):
                opened(tmp_path / "cut.npz")
        if compressed:
            (tmp_path / "hurt.npz").write_bytes(whole[:200] + b"\xff" * 40 + whole[240:])
            with pytest.raises(DataError, match="not a readable"):
                list(opened(tmp_path / "hurt.npz").batches(4))

    def test_members_that_are_not_arrays(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
            archive.writestr("notes.txt", "hello, hello")
        with pytest.raises(DataError, match="not a readable"):
            opened(tmp_path / "d.npz")

    def test_shards_that_do_not_match(self, tmp_path: Path) -> None:
        saved(tmp_path / "a.npz", samples())
        saved(tmp_path / "b.npz", changed(labels=None))
        with pytest.raises(DataError, match=r"b.npz holds the arrays \['image'\], but a.npz holds"):
            opened(tmp_path)


class TestCallables:
    def test_a_loader_is_called_for_every_epoch(self) -> None:
        calls = []

        def loader() -> Iterator[tuple[Any, Any]]:
            calls.append(1)
            yield samples()["image"], samples()["labels"]

        dataset = opened(loader)
        assert calls == []
        assert numbers(dataset.batches(10)) == numbers(dataset.batches(10))
        assert len(calls) == 2

    def test_a_loader_is_not_read_further_than_needed(self) -> None:
        def loader() -> Iterator[tuple[Any, Any]]:
            yield samples()["image"], samples()["labels"]
            raise AssertionError

        assert numbers(opened(loader).take(10).batches(10)) == [list(range(10))]

    @pytest.mark.parametrize(
        ("targets", "names"),
        [
            (None, set()),
            ({}, set()),
            ([0, 1], {"labels"}),
            (np.zeros((2, 4)), {"logits"}),
            ({"logits": [[0.0] * 4] * 2, "labels": [1, 2]}, {"logits", "labels"}),
        ],
    )
    def test_targets(self, targets: Any, names: set[str]) -> None:
        batch = next(opened(lambda: [[samples(2)["image"].tolist(), targets]]).batches(2))
        assert set(batch.targets) == names

    @pytest.mark.parametrize(
        ("returned", "words"),
        [
            (None, "returned None, not batches"),
            ({"image": 1}, "returned a dict, not batches"),
            ("text", "returned a str, not batches"),
            ([samples()], "batch 0 of .* is a dict, not a pair"),
            ([(1, 2, 3)], "batch 0 of .* is a tuple, not a pair"),
            ([({"image": [[1], [1, 2]]}, None)], "'image' in batch 0 of .* raised ValueError"),
            ([({"image": samples()["image"]}, {"labels": [None] * 10})], "'labels' .* Python objects"),
        ],
    )
    def test_items_that_are_no_batches_are_refused(self, returned: Any, words: str) -> None:
        with pytest.raises(DataError, match=words):
            next(opened(lambda: returned).batches(4))

    def test_unnamed_arrays_for_several_inputs_or_outputs(self) -> None:
        two = [IMAGE, TensorSpec("mask", np.dtype(np.bool_), ("N",))]
        with pytest.raises(DataError, match=r"inputs in batch 0 of .* are a ndarray, not a dict"):
            next(open_data(lambda: [(samples()["image"], None)], two, OUTPUTS).batches(4))
        with pytest.raises(DataError, match=r"targets in batch 0 of .* are a ndarray, not a dict"):
            next(open_data(lambda: [(samples()["image"], np.zeros(10))], INPUTS, [LOGITS, IMAGE]).batches(4))

    def test_an_error_midway_names_the_place(self) -> None:
        def loader() -> Iterator[tuple[Any, Any]]:
            yield samples()["image"], samples()["labels"]
            raise KeyError("broken")

        batches = opened(loader).batches(5)
        assert [next(batches).size, next(batches).size] == [5, 5]
        with pytest.raises(DataError, match="loader raised KeyError: 'broken'") as caught:
            next(batches)
        assert "test_data.py, line" in caught.value.hint

    def test_an_error_in_the_call(self) -> None:
        def loader() -> None:
            raise OSError("no disk")

        with pytest.raises(DataError, match="loader raised OSError: no disk"):
            next(opened(loader).batches(1))

    def test_a_missing_module_is_found_out_when_it_is_needed(self) -> None:
        with pytest.raises(DataError, match="no module 'no_such_module_y'"):
            next(opened("no_such_module_y:loader").batches(1))

    def test_a_batch_in_the_middle_may_be_at_fault(self) -> None:
        bad = samples()
        bad["image"][3, 0, 0] = np.nan
        dataset = opened(lambda: [(a["image"], a["labels"]) for a in (samples(), bad)])
        with pytest.raises(DataError, match="batch 1 of"):
            list(dataset.batches(10))


@pytest.mark.parametrize(
    ("output", "labels", "axis"),
    [
        (("N", 10), (7,), 1),
        (("N", "C"), (7,), 1),
        (("N", 10, 1, 1), (7,), 1),
        ((1, 10), (7,), 1),
        (("N", 10, 8, 9), (7, 8, 9), 1),
        (("N", 10, "H", "W"), (7, 8, 9), 1),
        (("N", 12, 10), (7, 12), 2),
        (("N", 10, 12), (7, 12), 1),
        (("N", 8, 9, 10), (7, 8, 9), 3),
        (("N", 10, 8, 9), (7, 9, 8), None),
        (("N", 10), (7, 1), None),
        (("N", 10, 8, 8), (7,), None),
        (("N",), (7,), None),
        ((), (7,), None),
    ],
)
def test_class_axis(output: tuple[int | str, ...], labels: tuple[int, ...], axis: int | None) -> None:
    assert class_axis(output, labels) == axis


class TestOwnArrays:
    def test_arrays_of_other_names_are_targets(self, tmp_path: Path) -> None:
        texts = np.array([f"text {k}" for k in range(10)])
        boxes = np.full((10, 3, 4), np.nan)
        arrays = changed(texts=texts, boxes=boxes)
        np.savez(tmp_path / "own.npz", **arrays)
        for spec in (arrays, tmp_path / "own.npz", lambda: [({"image": arrays["image"]}, {"texts": texts})]):
            dataset = open_data(spec, INPUTS, OUTPUTS)
            seen = [batch.targets["texts"].tolist() for batch in dataset.batches(4, shuffle=True)]
            assert sorted(text for batch in seen for text in batch) == sorted(texts.tolist())
        batch = next(open_data(arrays, INPUTS, OUTPUTS).batches(10))
        assert batch.targets["boxes"].dtype == np.float64
        assert np.isnan(batch.targets["boxes"]).all()

    def test_their_samples_are_counted(self) -> None:
        with pytest.raises(DataError, match="number of samples"):
            opened(changed(texts=np.zeros((9, 2))))
        with pytest.raises(DataError, match="'texts' in the arrays is a single value"):
            opened(changed(texts=np.float64(1)))

    def test_negative_labels_of_positions(self) -> None:
        spec = TensorSpec("states", np.dtype(np.float32), ("N", 3, 5))
        labels = np.array([[0, 4, -100]] * 10)
        batch = next(open_data(changed(labels=labels), INPUTS, [spec]).batches(10))
        assert batch.targets["labels"].min() == -100
