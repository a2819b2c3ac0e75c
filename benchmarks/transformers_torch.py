"""Export transformers the way optimum does, for `exports.py`: caches in and out, named axes, opsets 11 to 20.

    pip install torch==2.13.0 onnx onnxscript onnxruntime "numpy<3" transformers==5.23.0
    python benchmarks/transformers_torch.py FOLDER [PATTERN…]

Run it with an interpreter of its own: the project itself does not need torch. Files are NAME.opsetN.onnx, by
PyTorch's legacy exporter up to opset 17 and by its dynamo exporter above; quantised forms and those that
onnxruntime's transformer optimiser fuses are made of these. Weights are random and uneven. Files that are
there already stay.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import nn

schemas = torch.library.Library("torchvision", "DEF")  # imports need schemas that this build of torch lacks
schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import transformers  # noqa: E402
from transformers.cache_utils import DynamicCache, EncoderDecoderCache  # noqa: E402

NEWEST_LEGACY = 17
BATCH, TOKENS, PAST, VOCABULARY = 2, 5, 3, 200
Sizes = dict[int, str]
ROWS: Sizes = {0: "batch_size"}
TEXT: Sizes = {0: "batch_size", 1: "sequence_length"}
BOTH: Sizes = {0: "batch_size", 1: "past_sequence_length + sequence_length"}
KEPT: Sizes = {0: "batch_size", 2: "past_sequence_length"}
GROWN: Sizes = {0: "batch_size", 2: "past_sequence_length + sequence_length"}


@dataclass
class Example:
    """A network with its inputs and results, in order, and the names of the open axes."""

    network: nn.Module
    inputs: dict[str, torch.Tensor]
    results: dict[str, Sizes]
    axes: dict[str, Sizes] = field(default_factory=dict)


class Called(nn.Module):
    """A network behind a function of the tensors it is fed."""

    def __init__(self, network: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.call = network, call

    def forward(self, *given: torch.Tensor) -> Any:
        """Feed by position."""
        return self.call(self.network, *given)


def ids(length: int = TOKENS) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (BATCH, length))


def ones(length: int = TOKENS) -> torch.Tensor:
    return torch.ones((BATCH, length), dtype=torch.int64)


def build(kind: str, config: str, attention: str = "eager", **sizes: Any) -> nn.Module:
    settings = getattr(transformers, config)(**sizes)
    settings._attn_implementation = attention
    return getattr(transformers, kind)(settings)


def encoder(
    kind: str, config: str, types: bool = True, result: str = "last_hidden_state", **sizes: Any
) -> Any:
    """A text encoder: tokens, mask and, where the network has that input, types."""

    def make() -> Example:
        network = build(kind, config, **sizes)
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]

        def call(inner: nn.Module, *given: torch.Tensor) -> Any:
            return inner(**dict(zip(names, given, strict=True)))[result]

        inputs = dict(zip(names, [ids(), ones(), torch.zeros_like(ids())], strict=False))
        shape = TEXT if result != "logits" or "Masked" in kind or "Token" in kind else ROWS
        return Example(Called(network, call), inputs, {result: shape}, dict.fromkeys(names, TEXT))

    return make


def decoder(kind: str, config: str, positions: bool = True, **sizes: Any) -> Any:
    """A text decoder with the keys and values of the earlier tokens."""

    def make() -> Example:
        network = build(kind, config, **sizes)
        settings = network.config
        layers, heads = settings.num_hidden_layers, settings.num_attention_heads
        width = getattr(settings, "head_dim", None) or settings.hidden_size // heads
        kept = getattr(settings, "num_key_value_heads", None) or heads
        inputs = {"input_ids": ids(), "attention_mask": ones(PAST + TOKENS)}
        axes = {"input_ids": TEXT, "attention_mask": BOTH}
        if positions:
            inputs["position_ids"] = torch.arange(PAST, PAST + TOKENS).expand(BATCH, -1).contiguous()
            axes["position_ids"] = TEXT
        caches = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
        for name in caches:
            inputs[f"past_key_values.{name}"] = torch.randn(BATCH, kept, PAST, width)
            axes[f"past_key_values.{name}"] = KEPT
        first = len(inputs) - len(caches)

        def call(inner: nn.Module, *given: torch.Tensor) -> Any:
            cache = DynamicCache(list(zip(given[first::2], given[first + 1 :: 2], strict=True)))
            where = {"position_ids": given[2]} if positions else {}
            found = inner(
                input_ids=given[0], attention_mask=given[1], past_key_values=cache, use_cache=True, **where
            )
            return (found.logits, *_parts(found.past_key_values))

        results = {"logits": TEXT} | {f"present.{name}": GROWN for name in caches}
        return Example(Called(network, call), inputs, results, axes)

    return make


def _parts(cache: Any) -> list[torch.Tensor]:
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def with_cross_cache(kind: str, config: str, width: int, cached: bool, **sizes: Any) -> Any:
    """A decoder that reads an encoder: keys and values of both, all of them given, or made and returned."""

    def make() -> Example:
        network = build(kind, config, **sizes)
        settings = network.config
        layers = getattr(settings, "decoder_layers", None) or settings.num_decoder_layers
        heads = getattr(settings, "decoder_attention_heads", None) or settings.num_heads
        size = getattr(settings, "d_kv", None) or settings.d_model // heads
        whisper = "Whisper" in kind
        read = torch.randn(BATCH, 30 if whisper else 7, width)
        mask = {} if whisper else {"encoder_attention_mask": ones(7)}
        state: Sizes = {0: "batch_size"} if whisper else {0: "batch_size", 1: "encoder_sequence_length"}
        inputs = {**mask, "input_ids": ids(1 if cached else TOKENS), "encoder_hidden_states": read}
        axes: dict[str, Sizes] = dict.fromkeys(mask, state) | {
            "input_ids": ROWS if cached else TEXT,
            "encoder_hidden_states": state,
        }
        caches = [
            (layer, who, part)
            for layer in range(layers)
            for who in ("decoder", "encoder")
            for part in ("key", "value")
        ]
        named = [".".join(map(str, cache)) for cache in caches]
        if cached:
            for name, (_, who, _) in zip(named, caches, strict=True):
                length = PAST if who == "decoder" else read.shape[1]
                inputs[f"past_key_values.{name}"] = torch.randn(BATCH, heads, length, size)
                axes[f"past_key_values.{name}"] = (
                    {0: "batch_size", 2: "past_decoder_sequence_length"}
                    if who == "decoder"
                    else ROWS
                    if whisper
                    else {0: "batch_size", 2: "encoder_sequence_length_out"}
                )
        first = len(inputs) - (len(named) if cached else 0)

        def call(inner: Any, *given: torch.Tensor) -> Any:
            past = None
            if cached:
                listed = given[first:]
                own = DynamicCache(list(zip(listed[0::4], listed[1::4], strict=True)))
                cross = DynamicCache(list(zip(listed[2::4], listed[3::4], strict=True)))
                past = EncoderDecoderCache(own, cross)
            plain = dict(zip(list(inputs)[:first], given[:first], strict=True))
            state = plain.pop("encoder_hidden_states")
            tokens_ = plain.pop("input_ids")
            masks = {"attention_mask": plain["encoder_attention_mask"]} if mask else {}
            found = inner(
                decoder_input_ids=tokens_,
                encoder_outputs=(state,),
                past_key_values=past,
                use_cache=True,
                **masks,
            )
            made = found.past_key_values
            own, cross = _parts(made.self_attention_cache), _parts(made.cross_attention_cache)
            pairs = [
                t
                for k in range(layers)
                for t in (*own[2 * k : 2 * k + 2], *(() if cached else cross[2 * k : 2 * k + 2]))
            ]
            return (found.logits, *pairs)

        returned = [n for n, (_, who, _) in zip(named, caches, strict=True) if who == "decoder" or not cached]
        results = {"logits": ROWS if cached else TEXT} | {f"present.{n}": ROWS for n in returned}
        return Example(Called(network, call), inputs, results, axes)

    return make


def pictures(kind: str, config: str, result: str = "logits", size: int = 32, **sizes: Any) -> Any:
    def make() -> Example:
        network = build(kind, config, image_size=size, **sizes)
        axes: Sizes = {0: "batch_size", 1: "num_channels", 2: "height", 3: "width"}
        axes = {0: "batch_size"}
        inputs = {"pixel_values": torch.randn(BATCH, 3, size, size)}
        return Example(
            Called(network, lambda inner, image: inner(image)[result]),
            inputs,
            {result: ROWS},
            {"pixel_values": axes},
        )

    return make


def clip() -> Example:
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
        "projection_dim": 32,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    vision = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": 32,
    }
    network = build("CLIPModel", "CLIPConfig", text_config=text, vision_config=vision, projection_dim=32)

    def call(inner: Any, tokens_: torch.Tensor, image: torch.Tensor, mask: torch.Tensor) -> Any:
        found = inner(input_ids=tokens_, pixel_values=image, attention_mask=mask)
        return found.logits_per_image, found.logits_per_text, found.text_embeds, found.image_embeds

    inputs = {"input_ids": ids(), "pixel_values": torch.randn(BATCH, 3, 32, 32), "attention_mask": ones()}
    text_axes: Sizes = {0: "text_batch_size", 1: "sequence_length"}
    image_axes: Sizes = {0: "image_batch_size"}
    results = {
        "logits_per_image": {0: "image_batch_size", 1: "text_batch_size"},
        "logits_per_text": {0: "text_batch_size", 1: "image_batch_size"},
        "text_embeds": {0: "text_batch_size"},
        "image_embeds": image_axes,
    }
    axes = {"input_ids": text_axes, "pixel_values": image_axes, "attention_mask": text_axes}
    return Example(Called(network, call), inputs, results, axes)


def sounds(kind: str, config: str, **sizes: Any) -> Any:
    def make() -> Example:
        network = build(kind, config, **sizes)
        inputs = {"input_values": torch.randn(BATCH, 1600)}
        axes: Sizes = {0: "batch_size", 1: "sequence_length"}
        return Example(
            Called(network, lambda inner, wave: inner(wave).logits),
            inputs,
            {"logits": {0: "batch_size", 1: "frames"}},
            {"input_values": axes},
        )

    return make


def whisper_encoder() -> Example:
    network = build("WhisperModel", "WhisperConfig", **WHISPER).encoder
    inputs = {"input_features": torch.randn(BATCH, 20, 60)}
    called = Called(network, lambda inner, given: inner(given).last_hidden_state)
    return Example(called, inputs, {"last_hidden_state": ROWS}, {"input_features": ROWS})


BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}
GATED = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
WHISPER = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "num_mel_bins": 20,
    "max_source_positions": 30,
    "max_target_positions": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
SEEN = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "patch_size": 8,
}

NETWORKS: dict[str, tuple[Callable[[], Example], Sequence[int]]] = {
    "bert": (encoder("BertModel", "BertConfig", **BERT), (11, 14, 17, 18, 20)),
    "bert_sdpa": (encoder("BertModel", "BertConfig", attention="sdpa", **BERT), (14, 17, 20)),
    "bert_classes": (
        encoder("BertForSequenceClassification", "BertConfig", result="logits", **BERT),
        (12, 20),
    ),
    "roberta": (
        encoder("RobertaForTokenClassification", "RobertaConfig", types=False, result="logits", **BERT),
        (13, 18),
    ),
    "distilbert": (
        encoder(
            "DistilBertForMaskedLM",
            "DistilBertConfig",
            types=False,
            result="logits",
            vocab_size=VOCABULARY,
            dim=64,
            n_layers=2,
            n_heads=4,
            hidden_dim=128,
            max_position_embeddings=32,
        ),
        (11, 17),
    ),
    "albert": (encoder("AlbertModel", "AlbertConfig", embedding_size=32, **BERT), (13, 18)),
    "electra": (encoder("ElectraModel", "ElectraConfig", embedding_size=32, **BERT), (11, 18)),
    "mpnet": (encoder("MPNetModel", "MPNetConfig", types=False, **BERT), (13, 18)),
    "deberta": (
        encoder(
            "DebertaModel",
            "DebertaConfig",
            relative_attention=True,
            pos_att_type=["c2p", "p2c"],
            type_vocab_size=2,
            **BERT,
        ),
        (12, 17),
    ),
    "deberta_v2": (
        encoder(
            "DebertaV2Model",
            "DebertaV2Config",
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=16,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            position_biased_input=False,
            type_vocab_size=0,
            types=False,
            **BERT,
        ),
        (12, 15, 17, 18),
    ),
    "modernbert": (
        encoder(
            "ModernBertModel",
            "ModernBertConfig",
            types=False,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            cls_token_id=1,
            sep_token_id=2,
            **BERT,
        ),
        (17, 20),
    ),
    "llama": (decoder("LlamaForCausalLM", "LlamaConfig", **GATED), (13, 14, 17, 18, 20)),
    "llama_sdpa": (decoder("LlamaForCausalLM", "LlamaConfig", attention="sdpa", **GATED), (14, 20)),
    "qwen2": (decoder("Qwen2ForCausalLM", "Qwen2Config", **GATED), (14, 18)),
    "qwen3": (
        decoder("Qwen3ForCausalLM", "Qwen3Config", head_dim=32, tie_word_embeddings=True, **GATED),
        (17, 20),
    ),
    "mistral": (decoder("MistralForCausalLM", "MistralConfig", sliding_window=4, **GATED), (16, 20)),
    "gemma": (decoder("GemmaForCausalLM", "GemmaConfig", head_dim=16, **GATED), (14, 18)),
    "phi3": (decoder("Phi3ForCausalLM", "Phi3Config", pad_token_id=0, **GATED), (14, 20)),
    "gpt2": (
        decoder(
            "GPT2LMHeadModel",
            "GPT2Config",
            vocab_size=VOCABULARY,
            n_embd=64,
            n_layer=2,
            n_head=4,
            n_positions=64,
            bos_token_id=0,
            eos_token_id=0,
        ),
        (11, 13, 17, 20),
    ),
    "gpt_neox": (decoder("GPTNeoXForCausalLM", "GPTNeoXConfig", **BERT), (14, 20)),
    "opt": (
        decoder(
            "OPTForCausalLM",
            "OPTConfig",
            positions=False,
            vocab_size=VOCABULARY,
            hidden_size=64,
            ffn_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            word_embed_proj_dim=64,
        ),
        (14, 18),
    ),
    "t5_encoder": (encoder("T5EncoderModel", "T5Config", types=False, **T5), (12, 13, 18)),
    "t5_decoder": (with_cross_cache("T5ForConditionalGeneration", "T5Config", 64, False, **T5), (13, 17)),
    "t5_decoder_with_past": (
        with_cross_cache("T5ForConditionalGeneration", "T5Config", 64, True, **T5),
        (13, 17),
    ),
    "whisper_encoder": (whisper_encoder, (11, 14, 20)),
    "whisper_decoder": (
        with_cross_cache("WhisperForConditionalGeneration", "WhisperConfig", 64, False, **WHISPER),
        (14, 17),
    ),
    "whisper_decoder_with_past": (
        with_cross_cache("WhisperForConditionalGeneration", "WhisperConfig", 64, True, **WHISPER),
        (14, 17),
    ),
    "vit": (pictures("ViTForImageClassification", "ViTConfig", **SEEN), (11, 14, 20)),
    "deit": (pictures("DeiTModel", "DeiTConfig", result="last_hidden_state", **SEEN), (13, 18)),
    "dinov2": (
        pictures(
            "Dinov2Model",
            "Dinov2Config",
            result="last_hidden_state",
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            patch_size=8,
        ),
        (12, 18),
    ),
    "clip": (clip, (13, 14, 17, 18)),
    "wav2vec2": (
        sounds(
            "Wav2Vec2ForCTC",
            "Wav2Vec2Config",
            vocab_size=32,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            conv_dim=(32, 32, 32),
            conv_stride=(5, 2, 2),
            conv_kernel=(10, 3, 2),
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
        ),
        (11, 14, 18),
    ),
}


def main() -> None:
    folder, patterns = Path(sys.argv[1]), sys.argv[2:] or ["*"]
    folder.mkdir(parents=True, exist_ok=True)
    for name, (make, opsets) in NETWORKS.items():
        for opset in opsets:
            path = folder / f"{name}.opset{opset}.onnx"
            if path.exists() or not any(fnmatch(path.stem, pattern) for pattern in patterns):
                continue
            print(f"{path.stem:36}{attempt(lambda: export(uneven(make()), opset, path), path)}", flush=True)  # noqa: B023
    for made, (source, change) in DERIVED.items():
        path, given = folder / f"{made}.onnx", folder / f"{source}.onnx"
        if given.exists() and not path.exists() and any(fnmatch(path.stem, p) for p in patterns):
            print(f"{path.stem:36}{attempt(lambda: change(given, path), path)}", flush=True)  # noqa: B023


def uneven(example: Example) -> Example:
    """Draw parameters that are initialised to constants: equal weights would hide a wrong channel."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in example.network.parameters():
            if parameter.ndim < 2 or parameter.std() < 1e-3:
                center = 1.0 if parameter.mean() > 0.5 else 0.0
                parameter.copy_(center + 0.2 * torch.randn_like(parameter))
    example.network.eval()
    return example


def attempt(work: Callable[[], None], path: Path) -> str:
    start = time.monotonic()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            work()
    except Exception as error:
        path.unlink(missing_ok=True)
        return f"failed: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
    return f"{time.monotonic() - start:.1f} s"


def export(example: Example, opset: int, path: Path) -> None:
    given, names = tuple(example.inputs.values()), list(example.inputs)
    how: dict[str, Any] = {
        "input_names": names,
        "output_names": list(example.results),
        "opset_version": opset,
    }
    if opset <= NEWEST_LEGACY:
        axes = example.axes | example.results
        torch.onnx.export(example.network, given, str(path), dynamo=False, dynamic_axes=axes, **how)
        return
    shapes = [dict.fromkeys(example.axes[n], torch.export.Dim.DYNAMIC) for n in names]
    torch.onnx.export(
        example.network,
        given,
        str(path),
        dynamo=True,
        dynamic_shapes=(tuple(shapes),),
        external_data=False,
        verbose=False,
        **how,
    )


def int8(given: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(given, path, weight_type=QuantType.QInt8)


def int8_all(given: Path, path: Path) -> None:
    """Every channel a scale of its own, embeddings too."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        given,
        path,
        per_channel=True,
        weight_type=QuantType.QUInt8,
        op_types_to_quantize=["MatMul", "Gather", "Gemm"],
    )


def int4(given: Path, path: Path) -> None:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(given), block_size=32, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    quantizer.model.save_model_to_file(str(path))


def fused(kind: str) -> Callable[[Path, Path], None]:
    def fuse(given: Path, path: Path) -> None:
        from onnxruntime.transformers import optimizer

        optimizer.optimize_model(
            str(given), kind, num_heads=4, hidden_size=64, opt_level=0
        ).save_model_to_file(str(path))

    return fuse


def basic(given: Path, path: Path) -> None:
    """As a session of onnxruntime writes it after its own optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(str(given), options)


DERIVED: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "bert.opset14.int8": ("bert.opset14", int8),
    "bert.opset11.int8all": ("bert.opset11", int8_all),
    "llama.opset17.int8": ("llama.opset17", int8),
    "llama.opset17.int4": ("llama.opset17", int4),
    "gpt2.opset13.int8": ("gpt2.opset13", int8),
    "vit.opset14.int8": ("vit.opset14", int8),
    "whisper_decoder_with_past.opset17.int8": ("whisper_decoder_with_past.opset17", int8),
    "qwen3.opset17.int4": ("qwen3.opset17", int4),
    "t5_encoder.opset13.int8": ("t5_encoder.opset13", int8),
    "bert.opset11.fused": ("bert.opset11", fused("bert")),
    "bert.opset14.fused": ("bert.opset14", fused("bert")),
    "gpt2.opset13.fused": ("gpt2.opset13", fused("gpt2")),
    "bert.opset17.extended": ("bert.opset17", basic),
    "llama.opset17.extended": ("llama.opset17", basic),
    "clip.opset14.int8": ("clip.opset14", int8),
    "vit.opset14.fused": ("vit.opset14", fused("vit")),
}

if __name__ == "__main__":
    main()
