"""The pass `OnnxPrune` of Olive workflows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from olive.data.config import DataConfig
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.passes import Pass
from olive.passes.onnx.common import get_external_data_config, model_proto_to_olive_model
from olive.passes.pass_config import PassConfigParam

from onnxprune.evaluate.data import DataSpec
from onnxprune.ir import load
from onnxprune.passes import Finetune, Prune, Transform

_BUDGETS = ("reduce_macs", "reduce_params", "reduce_size", "reduce_latency", "max_drop")


class OnnxPrune(Pass):  # type: ignore[misc]
    """Ranks, masks and repairs whole channels of an ONNX model, trains if asked, makes dense, proves."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, PassConfigParam]:
        """Return the options of the pass, those of the command `prune` under their names."""
        del accelerator_spec
        texts = {
            "reduce_macs": "Fraction of the multiply-accumulates to remove.",
            "reduce_params": "Fraction of the parameters to remove.",
            "reduce_size": "Fraction of the bytes of the file to remove.",
            "reduce_latency": "Fraction of the time of a run to remove, measured on this machine.",
            "max_drop": "The most that the metric may lose; needs samples.",
        }
        budgets = {
            n: PassConfigParam(type_=float, default_value=None, description=t) for n, t in texts.items()
        }
        return {
            **budgets,
            "data_config": PassConfigParam(
                type_=DataConfig | dict | None,
                default_value=None,
                description="Samples to rank, repair and train with, as data of Olive.",
            ),
            "data": PassConfigParam(
                type_=str,
                default_value=None,
                description="The same as data of onnxprune: an .npz file, a folder, module:callable.",
            ),
            "epochs": PassConfigParam(
                type_=int, default_value=0, description="Passes over the samples to train, after the repair."
            ),
            "loss": PassConfigParam(
                type_=str,
                default_value="distill",
                description="The loss of the training; distill needs no labels.",
            ),
            "exclude": PassConfigParam(
                type_=list[str], default_value=[], description="Groups, nodes or tensors to leave alone."
            ),
            "allow_inexact": PassConfigParam(
                type_=bool, default_value=False, description="Also open axes the model normalises over."
            ),
            **get_external_data_config(),
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: Any, output_model_path: str
    ) -> ONNXModelHandler:
        """Prune a model; Olive writes and returns the dense one."""
        given = load(model.model_path)
        samples = _samples(config)
        budgets = {name: found for name in _BUDGETS if (found := getattr(config, name)) is not None}
        result = Prune(
            **budgets, data=samples, exclude=tuple(config.exclude), allow_inexact=config.allow_inexact
        )(given)
        if config.epochs and samples is not None:
            teacher = given if "distill" in config.loss else None
            result = Finetune(samples, loss=config.loss, teacher=teacher, epochs=config.epochs)(result)
        dense = Transform(data=samples)(result)
        path = resolve_onnx_path(output_model_path, Path(model.model_path).name)
        return model_proto_to_olive_model(dense.model.proto, path, config)


def _samples(config: Any) -> DataSpec | None:
    """Return the samples of a configuration in a form that passes take."""
    if config.data_config is None:
        return None if config.data is None else str(config.data)
    given = config.data_config
    container = (DataConfig(**given) if isinstance(given, dict) else given).to_data_container()
    return lambda: _batches(container.create_dataloader())


def _batches(loader: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield the batches of an Olive data loader as arrays."""
    for batch in loader:
        inputs, targets = batch if isinstance(batch, tuple | list) else (batch, None)
        yield _arrays(inputs), None if targets is None else _arrays(targets)


def _arrays(found: Any) -> Any:
    return {k: np.asarray(v) for k, v in found.items()} if isinstance(found, dict) else np.asarray(found)
