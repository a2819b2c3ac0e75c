"""Small networks with random weights, one for each kind of model: for trying commands, not for their answers.

detector     boxes and scores of a picture: strided convolutions, a split block, a pyramid, two heads
transformer  an embedding of a text: two post-norm encoder layers with a padding mask, mean pooling
decoder      scores of the next token: two pre-norm layers, grouped-query attention, caches
audio        speech in each frame: one-dimensional convolutions, an LSTM whose state goes in and out
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

HEADER = '<ir_version: 8, opset_import: ["": 17]>\n'
WEIGHT = re.compile(r"\$(\w+)\[([\d, ]+)\]")


def detector() -> onnx.ModelProto:
    """Return a detector: `image` [N, 3, H, W] to `boxes` [N, 4, A] and `scores` [N, 5, A]."""
    return filled(
        f"""detector (float[N, 3, H, W] image) => (float[N, 4, A] boxes, float[N, 5, A] scores) {{
        {_silu("image", "stem", 3, 32, 3, stride=2)}
        {_silu("stem", "stage1", 32, 64, 3, stride=2)}
        left, right = Split <axis = 1> (stage1)
        {_silu("right", "block", 32, 32, 3)}
        joined = Concat <axis = 1> (left, right, block)
        {_silu("joined", "mix", 96, 64, 1)}
        {_silu("mix", "stage2", 64, 128, 3, stride=2)}
        up = Resize <mode = "nearest"> (stage2, none, twice)
        pyramid = Concat <axis = 1> (up, mix)
        {_silu("pyramid", "fine", 192, 64, 1)}
        {_silu("fine", "box_tower", 64, 64, 3)}
        {_silu("fine", "class_tower", 64, 64, 3)}
        fine_boxes = Conv (box_tower, $fine_boxes_weight[4, 64, 1, 1])
        fine_scores = Conv (class_tower, $fine_scores_weight[5, 64, 1, 1])
        coarse_boxes = Conv (stage2, $coarse_boxes_weight[4, 128, 1, 1])
        coarse_scores = Conv (stage2, $coarse_scores_weight[5, 128, 1, 1])
        a = Reshape (fine_boxes, flat)
        b = Reshape (coarse_boxes, flat)
        boxes = Concat <axis = 2> (a, b)
        c = Reshape (fine_scores, flat)
        d = Reshape (coarse_scores, flat)
        logits = Concat <axis = 2> (c, d)
        scores = Sigmoid (logits)
        }}""",
        none=np.zeros(0, np.float32),
        twice=np.asarray([1, 1, 2, 2], np.float32),
        flat=np.asarray([0, 0, -1]),
    )


def transformer() -> onnx.ModelProto:
    """Return a text encoder: `ids` and `mask` [N, T] to `embedding` [N, 64]."""
    return filled(
        f"""transformer (int64[N, T] ids, int64[N, T] mask) => (float[N, 64] embedding) {{
        x0 = Gather ($words[500, 64], ids)
        kept = Cast <to = 1> (mask)
        column = Unsqueeze (kept, last)
        row = Unsqueeze (kept, inner)
        away = Sub (one, row)
        bias = Mul (away, lowest)
        {_encoder_layer("x0", "x1", "layer1")}
        {_encoder_layer("x1", "x2", "layer2")}
        chosen = Mul (x2, column)
        total = ReduceSum <keepdims = 0> (chosen, second)
        count = ReduceSum <keepdims = 0> (column, second)
        embedding = Div (total, count)
        }}""",
        one=np.float32(1),
        lowest=np.float32(-1e4),
        half=np.float32(0.5),
        root=np.float32(math.sqrt(2)),
        scale=np.float32(1 / 4),
        heads=np.asarray([0, 0, 4, 16]),
        merged=np.asarray([0, 0, 64]),
        last=np.asarray([2]),
        second=np.asarray([1]),
        inner=np.asarray([1, 2]),
    )


def decoder() -> onnx.ModelProto:
    """Return a decoder of one token: `ids` [N, 1], caches [N, 2, P, 16] to `logits` [N, 1, 500], caches."""
    names = [f"{k}_{half}" for k in (1, 2) for half in ("key", "value")]
    past = ", ".join(f"float[N, 2, P, 16] past_{name}" for name in names)
    present = ", ".join(f"float[N, 2, L, 16] present_{name}" for name in names)
    return filled(
        f"""decoder (int64[N, 1] ids, {past}) => (float[N, 1, 500] logits, {present}) {{
        x0 = Gather ($words[500, 64], ids)
        {_decoder_layer("x0", "x1", 1)}
        {_decoder_layer("x1", "x2", 2)}
        {_rms("x2", "final", 64)}
        logits = MatMul (final, $head[64, 500])
        }}""",
        two=np.float32(2),
        tiny=np.float32(1e-6),
        scale=np.float32(1 / 4),
        queries=np.asarray([0, 0, 2, 2, 16]),
        keys=np.asarray([0, 0, 2, 16]),
        merged=np.asarray([0, 0, 64]),
        inner=np.asarray([2]),
    )


def audio() -> onnx.ModelProto:
    """Return a voice detector: `wave` [N, 1, S], states [1, N, 64] to `speech` [T, N, 1], states."""
    return filled(
        """audio (float[N, 1, S] wave, float[1, N, 64] h, float[1, N, 64] c)
        => (float[T, N, 1] speech, float[1, N, 64] h_next, float[1, N, 64] c_next) {
        a = Conv <strides = [4], pads = [4, 4]> (wave, $conv1[32, 1, 9], $conv1_bias[32])
        b = Relu (a)
        d = Conv <strides = [4], pads = [4, 4]> (b, $conv2[64, 32, 9], $conv2_bias[64])
        e = Relu (d)
        f = Conv <strides = [2], pads = [1, 1]> (e, $conv3[64, 64, 3], $conv3_bias[64])
        g = Relu (f)
        frames = Transpose <perm = [2, 0, 1]> (g)
        y, h_next, c_next = LSTM <hidden_size = 64>
            (frames, $w[1, 256, 64], $r[1, 256, 64], $lstm_bias[1, 512], , h, c)
        flat = Squeeze (y, direction)
        logits = MatMul (flat, $head[64, 1])
        speech = Sigmoid (logits)
        }""",
        direction=np.asarray([1]),
    )


KINDS: dict[str, Callable[[], onnx.ModelProto]] = {
    "detector": detector,
    "transformer": transformer,
    "decoder": decoder,
    "audio": audio,
}


def filled(text: str, **constants: np.ndarray | np.generic) -> onnx.ModelProto:
    """Return a model whose weights are drawn from He's normal distribution (He et al. 2015).

    Args:
        text: The graph; ``$name[sizes]`` is a weight of that name and shape.
        constants: All other constants, by name.
    """
    weights: dict[str, list[int]] = {}

    def noted(found: re.Match[str]) -> str:
        weights[found[1]] = [int(size) for size in found[2].split(",")]
        return found[1]

    model = onnx.parser.parse_model(HEADER + WEIGHT.sub(noted, text))
    random = np.random.default_rng(0)
    for name, shape in weights.items():
        values = _drawn(name, shape, random)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    for node in model.graph.node:
        node.name = node.output[0]
    onnx.checker.check_model(model, full_check=True)
    return model


def _drawn(name: str, shape: Sequence[int], random: np.random.Generator) -> np.ndarray:
    """Return the start of a weight: 0.01 for a bias, 1 for a scale, else a normal distribution."""
    if name.endswith(("bias", "scale")):
        return np.full(shape, 0.01 if name.endswith("bias") else 1.0)
    fan, gain = (shape[0], 1) if len(shape) == 2 else (math.prod(shape[1:]), 2)
    if shape[0] == 1:  # the directions of a recurrent layer
        fan = shape[-1]
    return random.normal(0, math.sqrt(gain / fan), shape)


def _silu(x: str, name: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> str:
    """Convolution, then x · sigmoid(x)."""
    geometry = f"strides = [{stride}, {stride}], pads = [{', '.join([str(kernel // 2)] * 4)}]"
    return f"""{name}_conv = Conv <{geometry}> ({x}, ${name}_weight[{outputs}, {inputs}, {kernel}, {kernel}],
            ${name}_bias[{outputs}])
        {name}_gate = Sigmoid ({name}_conv)
        {name} = Mul ({name}_conv, {name}_gate)"""


def _encoder_layer(x: str, y: str, name: str) -> str:
    """Attention over four heads of 16 and a GELU network of 256, each added and normalised (post-norm)."""
    parts = "\n".join(
        f"""{name}_{part}_flat = MatMul ({x}, ${name}_{part}_weight[64, 64])
        {name}_{part}_heads = Reshape ({name}_{part}_flat, heads)
        {name}_{part} = Transpose <perm = [{perm}]> ({name}_{part}_heads)"""
        for part, perm in (("q", "0, 2, 1, 3"), ("k", "0, 2, 3, 1"), ("v", "0, 2, 1, 3"))
    )
    return f"""{parts}
        {name}_products = MatMul ({name}_q, {name}_k)
        {name}_scaled = Mul ({name}_products, scale)
        {name}_masked = Add ({name}_scaled, bias)
        {name}_shares = Softmax <axis = -1> ({name}_masked)
        {name}_mixed = MatMul ({name}_shares, {name}_v)
        {name}_turned = Transpose <perm = [0, 2, 1, 3]> ({name}_mixed)
        {name}_merged = Reshape ({name}_turned, merged)
        {name}_attention = MatMul ({name}_merged, ${name}_out_weight[64, 64])
        {name}_sum1 = Add ({x}, {name}_attention)
        {name}_a = LayerNormalization ({name}_sum1, ${name}_norm1_scale[64], ${name}_norm1_bias[64])
        {name}_up = MatMul ({name}_a, ${name}_up_weight[64, 256])
        {name}_divided = Div ({name}_up, root)
        {name}_erf = Erf ({name}_divided)
        {name}_raised = Add ({name}_erf, one)
        {name}_gated = Mul ({name}_up, {name}_raised)
        {name}_gelu = Mul ({name}_gated, half)
        {name}_down = MatMul ({name}_gelu, ${name}_down_weight[256, 64])
        {name}_sum2 = Add ({name}_a, {name}_down)
        {y} = LayerNormalization ({name}_sum2, ${name}_norm2_scale[64], ${name}_norm2_bias[64])"""


def _rms(x: str, y: str, width: int) -> str:
    """Root mean square normalisation (Zhang and Sennrich 2019), spelled out as exporters do."""
    return f"""{y}_squares = Pow ({x}, two)
        {y}_mean = ReduceMean <axes = [-1]> ({y}_squares)
        {y}_shifted = Add ({y}_mean, tiny)
        {y}_root = Sqrt ({y}_shifted)
        {y}_unit = Div ({x}, {y}_root)
        {y} = Mul ({y}_unit, ${y}_scale[{width}])"""


def _decoder_layer(x: str, y: str, k: int) -> str:
    """Four query heads over two heads of keys and values with caches; a gated network of 192 (pre-norm)."""
    n = f"layer{k}"
    halves = "\n".join(
        f"""{n}_{half}_flat = MatMul ({n}_a, ${n}_{half}_weight[64, 32])
        {n}_{half}_heads = Reshape ({n}_{half}_flat, keys)
        {n}_{half}_new = Transpose <perm = [0, 2, 1, 3]> ({n}_{half}_heads)
        present_{k}_{half} = Concat <axis = 2> (past_{k}_{half}, {n}_{half}_new)
        {n}_{half}_all = Unsqueeze (present_{k}_{half}, inner)"""
        for half in ("key", "value")
    )
    return f"""{_rms(x, f"{n}_a", 64)}
        {n}_q_flat = MatMul ({n}_a, ${n}_q_weight[64, 64])
        {n}_q_heads = Reshape ({n}_q_flat, queries)
        {n}_q = Transpose <perm = [0, 2, 3, 1, 4]> ({n}_q_heads)
        {halves}
        {n}_turned = Transpose <perm = [0, 1, 2, 4, 3]> ({n}_key_all)
        {n}_products = MatMul ({n}_q, {n}_turned)
        {n}_scaled = Mul ({n}_products, scale)
        {n}_shares = Softmax <axis = -1> ({n}_scaled)
        {n}_mixed = MatMul ({n}_shares, {n}_value_all)
        {n}_back = Transpose <perm = [0, 3, 1, 2, 4]> ({n}_mixed)
        {n}_merged = Reshape ({n}_back, merged)
        {n}_attention = MatMul ({n}_merged, ${n}_out_weight[64, 64])
        {n}_b = Add ({x}, {n}_attention)
        {_rms(f"{n}_b", f"{n}_c", 64)}
        {n}_gate_in = MatMul ({n}_c, ${n}_gate_weight[64, 192])
        {n}_sigmoid = Sigmoid ({n}_gate_in)
        {n}_gate = Mul ({n}_gate_in, {n}_sigmoid)
        {n}_up = MatMul ({n}_c, ${n}_up_weight[64, 192])
        {n}_product = Mul ({n}_gate, {n}_up)
        {n}_down = MatMul ({n}_product, ${n}_down_weight[192, 64])
        {y} = Add ({n}_b, {n}_down)"""
