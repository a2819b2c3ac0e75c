"""Preprocessing settings beside a folder of samples, in the format of Hugging Face's processors.

``preprocessor_config.json`` (https://huggingface.co/docs/transformers/main_classes/image_processor) comes
with a downloaded model. The keys read here are its keys; others are left alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxprune.errors import DataError
from onnxprune.support.json_forms import COUNT, FLAG, NUMBER, Nullable, OneOf, read_form
from onnxprune.support.sample_files import SETTINGS

_SIZE = OneOf(COUNT, {"height": COUNT, "width": COUNT}, {"shortest_edge": COUNT})
_CROP = OneOf(COUNT, {"height": COUNT, "width": COUNT})
_CHANNELS = OneOf(NUMBER, [NUMBER])
_FORM = {
    "do_resize?": Nullable(FLAG),
    "size?": Nullable(_SIZE),
    "resample?": Nullable(COUNT),
    "do_center_crop?": Nullable(FLAG),
    "crop_size?": Nullable(_CROP),
    "do_rescale?": Nullable(FLAG),
    "rescale_factor?": Nullable(NUMBER),
    "do_normalize?": Nullable(FLAG),
    "image_mean?": Nullable(_CHANNELS),
    "image_std?": Nullable(_CHANNELS),
    "sampling_rate?": Nullable(COUNT),
}


def settings_of(folder: Path) -> dict[str, Any] | None:
    """Return the settings of a folder of samples, without keys that are null; ``None`` if it has none.

    Raises:
        DataError: The file cannot be read, or is of another form.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return None
    try:
        found = read_form(path.read_text(encoding="utf-8"), _FORM)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is no preprocessing of pictures or sounds: {error}",
            "take the file that the model was published with",
        ) from error
    return {key: value for key, value in found.items() if value is not None}
