"""Folders of pictures and sounds, files of texts."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile
from tokenizers import Tokenizer, models, pre_tokenizers

from onnxprune.errors import DataError, OutputError
from onnxprune.evaluate.data import Dataset, open_data
from onnxprune.runtime import TensorSpec
from onnxprune.support.path_guard import check_output
from onnxprune.support.progress import reporting
from onnxprune.support.sample_files import SETTINGS

RANDOM = np.random.default_rng(0)
LOGITS = TensorSpec("logits", np.dtype(np.float32), ("N", 3))


def spec(*shape: int | str | None, kind: str = "f4", name: str = "x") -> TensorSpec:
    return TensorSpec(name, np.dtype(kind), shape)


def opened(path: Path, *inputs: TensorSpec, output: TensorSpec = LOGITS) -> Dataset:
    return open_data(str(path), inputs, (output,))


def values(data: Dataset, batch_size: int = 16) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(b.inputs, b.targets) for b in data.batches(batch_size)]


def picture(path: Path, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Write a picture without loss, and return its pixels."""
    path.parent.mkdir(exist_ok=True, parents=True)
    pixels = RANDOM.integers(0, 256, (height, width, channels), np.uint8)
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(path)
    return pixels


def write(folder: Path, **settings: Any) -> None:
    (folder / SETTINGS).write_text(json.dumps(settings))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("first", [True, False])
def test_pictures_are_scaled_to_one_in_the_layout_of_the_input(tmp_path: Path, channels: int, first: bool):
    pixels = [picture(tmp_path / f"{k}.png", 6, 5, channels) for k in range(3)]
    shape = (channels, 6, 5) if first else (6, 5, channels)
    ((inputs, targets),) = values(opened(tmp_path, spec("N", *shape)))
    wanted = np.stack(pixels).astype("f4") / 255
    np.testing.assert_allclose(inputs["x"], np.moveaxis(wanted, -1, 1) if first else wanted, atol=1e-6)
    assert not targets


def test_integers_are_left_as_they_are(tmp_path: Path):
    pixels = picture(tmp_path / "a.png", 4, 4)
    ((inputs, _),) = values(opened(tmp_path, spec("N", 4, 4, 3, kind="u1")))
    assert inputs["x"].dtype == np.uint8
    np.testing.assert_array_equal(inputs["x"][0], pixels)


def test_settings_beside_the_pictures_are_followed(tmp_path: Path):
    """Shorter edge, centre crop, mean and deviation, as the processors of Hugging Face do it."""
    pixels = picture(tmp_path / "a.png", 8, 12)
    write(
        tmp_path,
        do_resize=True,
        size={"shortest_edge": 8},
        do_center_crop=True,
        crop_size={"height": 8, "width": 8},
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.2, 0.3, 0.4],
        image_processor_type="ViTImageProcessor",
    )
    ((inputs, _),) = values(opened(tmp_path, spec("N", 3, "h", "w")))
    wanted = (pixels[:, 2:10] / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    np.testing.assert_allclose(inputs["x"][0], np.moveaxis(wanted, -1, 0), atol=1e-5)


def test_pictures_are_resized_by_pillow(tmp_path: Path):
    picture(tmp_path / "a.png", 9, 7)
    write(tmp_path, size={"height": 4, "width": 6}, resample=3, do_rescale=False)
    ((inputs, _),) = values(opened(tmp_path, spec("N", 3, 4, 6)))
    with Image.open(tmp_path / "a.png") as image:
        wanted = np.asarray(image.resize((6, 4), Image.Resampling.BICUBIC), "f4")
    np.testing.assert_array_equal(inputs["x"][0], np.moveaxis(wanted, -1, 0))


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (("0", "2", "10"), None),
        (("2", "0", "1"), [0, 1, 2]),
        (("cat", "ant", "bee"), [0, 1, 2]),
        (("cat", "ant"), None),
    ],
)
def test_folders_are_classes_where_they_name_them(tmp_path: Path, folders: tuple[str, ...], labels: Any):
    for name in folders:
        picture(tmp_path / name / "a.png", 4, 4)
    data = opened(tmp_path, spec("N", 3, 4, 4))
    if "10" in folders:
        with pytest.raises(DataError, match="label 10"):
            values(data)
        return
    ((_, targets),) = values(data)
    assert (targets["labels"].tolist() if targets else None) == labels


def test_shuffling_keeps_labels_with_their_pictures(tmp_path: Path):
    by_label = {k: picture(tmp_path / str(k) / "a.png", 4, 4) for k in range(3)}
    data = opened(tmp_path, spec("N", 3, 4, 4))
    orders = set()
    for epoch in range(6):
        (batch,) = data.batches(8, shuffle=True, seed=1, epoch=epoch)
        orders.add(tuple(batch.targets["labels"].tolist()))
        for label, x in zip(batch.targets["labels"], batch.inputs["x"], strict=True):
            np.testing.assert_allclose(x, np.moveaxis(by_label[int(label)], -1, 0) / 255, atol=1e-6)
    assert len(orders) > 1
    assert data.digest() == opened(tmp_path, spec("N", 3, 4, 4)).digest()


def test_pictures_of_several_sizes_do_not_share_a_batch(tmp_path: Path):
    for k, height in enumerate((4, 6, 4)):
        picture(tmp_path / f"{k}.png", height, 4)
    write(tmp_path, do_resize=False)
    shapes = [inputs["x"].shape for inputs, _ in values(opened(tmp_path, spec("N", 3, "h", "w")))]
    assert sorted(shapes) == [(1, 3, 6, 4), (2, 3, 4, 4)]


@pytest.mark.parametrize(
    ("inputs", "settings", "message"),
    [
        ((spec("N", 12),), None, "does not say that it takes any"),
        ((spec("N", 3, 4, 3),), None, "does not say that it takes any"),
        ((spec("N", 3, 4, "w"),), None, "pictures of any size"),
        ((spec("N", 3, 4, 4), spec("N", 2, name="y")), None, "for one input"),
        ((spec("N", 3, 4, 4),), {"size": 8}, "make pictures of 8×8"),
        ((spec("N", 1, 4, 4),), {"image_mean": [0.1, 0.2, 0.3]}, "normalise 3 channels"),
        ((spec("N", 3, 4, 4),), {"size": "large"}, "is no preprocessing"),
    ],
)
def test_unfit_inputs_and_settings_are_named(tmp_path: Path, inputs: Any, settings: Any, message: str):
    picture(tmp_path / "a.png", 4, 4)
    if settings is not None:
        write(tmp_path, **settings)
    with pytest.raises(DataError, match=message):
        opened(tmp_path, *inputs)


def test_a_broken_picture_is_named(tmp_path: Path):
    picture(tmp_path / "a.png", 4, 4)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"b\.png is not a readable picture"):
        values(opened(tmp_path, spec("N", 3, 4, 4)))


def sound(path: Path, length: int, rate: int = 16000, kind: str = "i2", channels: int = 1) -> np.ndarray:
    path.parent.mkdir(exist_ok=True)
    high = {"i2": 32767, "u1": 255, "f4": 1}[kind]
    low = -high if kind == "i2" else 0
    drawn = RANDOM.uniform(low, high, (length, channels)).astype(kind)
    wavfile.write(path, rate, drawn[:, 0] if channels == 1 else drawn)
    return drawn


@pytest.mark.parametrize("shape", [("N", "t"), ("N", 1, "t"), ("N", 50), ("N", 70)])
def test_sounds_are_mono_values_of_minus_one_to_one(tmp_path: Path, shape: Any):
    drawn = [sound(tmp_path / f"{k}.wav", 60, channels=k + 1) for k in range(2)]
    ((inputs, _),) = values(opened(tmp_path, spec(*shape)))
    length = shape[-1] if isinstance(shape[-1], int) else 60
    wanted = np.zeros((2, length))
    for k, one in enumerate(drawn):
        mono = (one / 32768).mean(axis=1)[:length]
        wanted[k, : len(mono)] = mono
    np.testing.assert_allclose(inputs["x"].reshape(2, -1), wanted, atol=1e-6)
    assert inputs["x"].ndim == len(shape)


def test_other_forms_of_sound(tmp_path: Path):
    eight, real = sound(tmp_path / "a.wav", 20, kind="u1"), sound(tmp_path / "b.wav", 20, kind="f4")
    ((inputs, _),) = values(opened(tmp_path, spec("N", 20)))
    np.testing.assert_allclose(inputs["x"][0], (eight[:, 0] - 128.0) / 128, atol=1e-6)
    np.testing.assert_allclose(inputs["x"][1], real[:, 0], atol=1e-6)


def test_rates_are_equal_or_brought_to_that_of_the_settings(tmp_path: Path):
    sound(tmp_path / "a.wav", 100)
    sound(tmp_path / "b.wav", 100, rate=8000)
    with pytest.raises(DataError, match="has 8000 samples a second, other files 16000"):
        values(opened(tmp_path, spec("N", "t")))
    write(tmp_path, sampling_rate=16000, do_normalize=True)
    found = [inputs["x"] for inputs, _ in values(opened(tmp_path, spec("N", "t")))]
    assert sorted(x.shape for x in found) == [(1, 100), (1, 200)]
    for x in found:
        assert abs(x.mean()) < 1e-6
        assert x.std() == pytest.approx(1, abs=1e-3)


def test_sounds_and_pictures_do_not_mix(tmp_path: Path):
    sound(tmp_path / "a.wav", 10)
    picture(tmp_path / "b.png", 4, 4)
    with pytest.raises(DataError, match="holds pictures and sounds"):
        opened(tmp_path, spec("N", "t"))


TEXTS = [("a b c", 0), ("b", 2), ("c c a", 1), ("a", 0)]
IDS = TensorSpec("input_ids", np.dtype(np.int64), ("N", "t"))
MASK = TensorSpec("attention_mask", np.dtype(np.int64), ("N", "t"))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Texts of the words a, b and c, which a tokenizer numbers 1 to 3."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2, "c": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    lines = [json.dumps({"text": text, "label": label}) for text, label in TEXTS]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "texts.jsonl"


def test_texts_of_one_length_come_together_without_padding(texts: Path):
    found = values(opened(texts, IDS, MASK))
    ids = [inputs["input_ids"].tolist() for inputs, _ in found]
    assert ids == [[[1, 2, 3], [3, 3, 1]], [[2], [1]]]
    assert [targets["labels"].tolist() for _, targets in found] == [[0, 1], [2, 0]]
    assert all((inputs["attention_mask"] == 1).all() for inputs, _ in found)
    assert len(opened(texts, IDS)) == len(TEXTS)


def test_the_first_texts_are_those_of_the_file(texts: Path):
    found = values(opened(texts, IDS).take(2))
    assert [inputs["input_ids"].tolist() for inputs, _ in found] == [[[1, 2, 3]], [[2]]]


def test_an_input_of_fixed_length_is_padded_and_masked(texts: Path):
    fixed = (TensorSpec(s.name, s.dtype, ("N", 2)) for s in (IDS, MASK))
    ((inputs, _),) = values(opened(texts, *fixed))
    assert inputs["input_ids"].tolist() == [[1, 2], [2, 0], [3, 3], [1, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1], [1, 0], [1, 1], [1, 0]]


def test_shuffled_texts_are_padded_to_few_lengths_where_a_mask_leaves_the_padding_out(texts: Path):
    lines = [json.dumps({"text": "b " * words}) for words in (1, 7, 8, 9, 12, 20)]
    texts.write_text("\n".join(lines) + "\n")
    found = [batch.inputs for batch in opened(texts, IDS, MASK).batches(9, shuffle=True)]
    shapes = sorted(inputs["input_ids"].shape for inputs in found)
    assert shapes == [(1, 20), (2, 16), (3, 8)]
    for inputs in found:
        assert np.array_equal(inputs["input_ids"], 2 * inputs["attention_mask"])
    assert sum(int(inputs["attention_mask"].sum()) for inputs in found) == 57
    unmasked = [batch.inputs["input_ids"].shape[1] for batch in opened(texts, IDS).batches(9, shuffle=True)]
    assert sorted(unmasked) == [1, 7, 8, 9, 12, 20]


def test_texts_are_padded_with_the_token_of_the_tokenizer(texts: Path):
    path = texts.with_name("tokenizer.json")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_padding(pad_id=3, pad_token="c")
    tokenizer.save(str(path))
    fixed = (TensorSpec(s.name, s.dtype, ("N", 2)) for s in (IDS, MASK))
    ((inputs, _),) = values(opened(texts, *fixed))
    assert inputs["input_ids"].tolist() == [[1, 2], [2, 3], [3, 3], [1, 3]]
    assert inputs["attention_mask"].tolist() == [[1, 1], [1, 0], [1, 1], [1, 0]]


def test_texts_that_do_not_fit_are_named(texts: Path):
    with pytest.raises(DataError, match="holds texts"):
        opened(texts, spec("N", "t"))
    texts.write_text('{"text": "a"}\n{"txt": "b"}\n')
    with pytest.raises(DataError, match="line 2 of"):
        opened(texts, IDS)
    texts.with_name("tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"there is no .*tokenizer.json"):
        opened(texts, IDS)


def test_sources_go_to_other_processes(tmp_path: Path, texts: Path):
    picture(tmp_path / "pictures" / "a.png", 4, 4)
    for data in (opened(tmp_path / "pictures", spec("N", 3, 4, 4)), opened(texts, IDS)):
        assert pickle.loads(pickle.dumps(data)).digest() == data.digest()


def test_samples_are_not_written_over(tmp_path: Path, texts: Path):
    picture(tmp_path / "pictures" / "0" / "a.png", 4, 4)
    for place, data in (("pictures/0/a.png", "pictures"), ("tokenizer.json", texts.name)):
        with pytest.raises(OutputError, match=r"belongs to the data|is the tokenizer"):
            check_output(tmp_path / place, [tmp_path / data])


class Listener:
    """A reporter that keeps messages."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def start(self, name: str, total: int | None) -> str:
        return name

    def advance(self, key: Any, steps: int, note: str) -> None: ...
    def finish(self, key: Any) -> None: ...
    def tell(self, text: str) -> None:
        self.said.append(text)


def test_a_message_on_a_folder_is_shown_once(tmp_path: Path):
    """A command opens its data in several steps."""
    for name in ("cat", "dog"):
        picture(tmp_path / name / "a.png", 4, 4)
    listener = Listener()
    with reporting(listener):
        for _ in range(3):
            opened(tmp_path, spec("N", 3, 4, 4))
    assert sum("used without labels" in text for text in listener.said) == 1
    assert len(listener.said) == len(set(listener.said)) == 2


def test_a_list_of_labels_beside_pictures_is_not_passed_over_in_silence(tmp_path: Path):
    picture(tmp_path / "a.png", 4, 4)
    (tmp_path / "labels.csv").write_text("a.png,1\n")
    listener = Listener()
    with reporting(listener):
        opened(tmp_path, spec("N", 3, 4, 4))
    assert any("labels.csv is not read; classes are folders named by" in text for text in listener.said)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("x.npy", "numpy.savez('data.npz', INPUT=numpy.load('x.npy'))"),
        ("one.png", "give the folder of the files: "),
        ("one.wav", "give the folder of the files: "),
        ("labels.csv", "give an .npz file, a folder of them, of pictures"),
        ("notes", "give an .npz file, a folder of them, of pictures"),
    ],
)
def test_a_file_of_another_form_is_refused_with_the_form_that_is_read(tmp_path: Path, name: str, hint: str):
    (tmp_path / name).write_bytes(b"0,1\n")
    with pytest.raises(DataError, match="in no form of samples that is read") as caught:
        opened(tmp_path / name, spec("N", 3, 4, 4))
    assert caught.value.hint.startswith(hint) or hint in caught.value.hint


@pytest.mark.parametrize(
    ("shape", "wanted", "order"),
    [
        ((5, 16, 8, 3), ("N", 3, 16, 8), "(0, 3, 1, 2)"),
        ((5, 3, 16, 8), ("N", 16, 8, 3), "(0, 2, 3, 1)"),
        ((5, 8, 16, 3), ("N", 3, 16, 8), ""),
        ((5, 3, 8, 16), ("N", 3, 16, 8), ""),
        ((5, 16, 8, 3), ("N", 3, "H", "W"), ""),
    ],
)
def test_channels_on_another_axis_are_named(
    shape: tuple[int, ...], wanted: tuple[int | str, ...], order: str
):
    with pytest.raises(DataError, match="has shape") as caught:
        open_data({"x": np.zeros(shape, np.float32)}, (spec(*wanted),), (LOGITS,))
    assert caught.value.hint == (
        f"the channels are on another axis: .transpose{order}"
        if order
        else "the first axis counts the samples, the others must be the model's"
    )
