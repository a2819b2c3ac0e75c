"""An operator a case, behind a convolution that is trained: see `test_training_rewrites`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper, parser

BATCH, CHANNELS, SIZE = 3, 4, 6


@dataclass(frozen=True)
class Case:
    """`body` reads {x}, float [N, 4, 6, 6], and writes {y}; {n} is a prefix for names in between."""

    body: str
    opset: int = 17
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    trained: tuple[str, ...] = ()


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


SCALES = np.array([1, 1, 2, 1.5], np.float32)
SIZES = np.array([0, 4, 9, 4], np.int64)
INTS = {
    name: np.array(values, np.int64)
    for name, values in {
        "four": [4],
        "split": [1, 2, 1],
        "hw": [2, 3],
        "pads": [0, 0, 1, 2, 0, 0, 2, 0],
        "mixed": [0, 0, -1, 2, 0, 0, 2, -1],
        "side": [1, 2],
        "minus": [-1],
        "rows": [0, 24, 6],
        "four_each": [4] * BATCH,
        "one_axis": [1],
        "ends_of": [-1, -1],
        "minus_far": [-(2**63), -(2**63)],
        "back": [-1, -2],
        "two_of": [2],
        "last": [4, 6],
        "repeats": [1, 2, 1, 1],
        "batch_line": [0, 4, 36],
        "batch_shape": [1, 1, 6, 6],
        "points": [[0, 1, 2], [2, 3, 5]],
        "points_each": [[[1, 2], [3, 5]], [[0, 0], [3, 1]], [[2, 4], [1, 1]]],
    }.items()
}

SEQUENCE = "{n}a = Reshape({x}, rows)\n{n}q = Transpose<perm=[1, 0, 2]>({n}a)\n"  # [24, N, 6]
CELL = ("w", "r", "b")
BACK = "\n{y} = Transpose<perm=[2, 0, 1, 3]>({n}o)"  # [N, 24, directions, 3]


def _cell(gates: int, directions: int, bias: bool = True) -> dict[str, np.ndarray]:
    """Weights of a recurrent layer of three units on six inputs."""
    rows = 3 * gates
    made = {"w": _random(directions, rows, 6) / 2, "r": _random(directions, rows, 3) / 2}
    return made | ({"b": _random(directions, 2 * rows) / 2} if bias else {})


CASES = {
    "elu": Case("{y} = Elu<alpha=0.7>({x})"),
    "selu": Case("{y} = Selu({x})"),
    "celu": Case("{y} = Celu<alpha=0.6>({x})"),
    "softplus": Case("{y} = Softplus({x})"),
    "softsign": Case("{y} = Softsign({x})"),
    "mish": Case("{y} = Mish({x})", 21),
    "hard_sigmoid": Case("{y} = HardSigmoid<alpha=0.3, beta=0.4>({x})"),
    "hard_swish": Case("{y} = HardSwish({x})"),
    "thresholded_relu": Case("{y} = ThresholdedRelu<alpha=0.2>({x})"),
    "prelu": Case("{y} = PRelu({x}, {n}slope)", constants={"slope": _random(4, 1, 1)}, trained=("slope",)),
    "dropout": Case("{y} = Dropout({x})"),
    "conv_same_upper": Case(
        '{y} = Conv<auto_pad="SAME_UPPER", strides=[2, 2]>({x}, {n}w)', constants={"w": _random(2, 4, 3, 4)}
    ),
    "conv_same_lower": Case(
        '{y} = Conv<auto_pad="SAME_LOWER">({x}, {n}w)', constants={"w": _random(2, 4, 2, 4)}, trained=("w",)
    ),
    "conv_valid": Case('{y} = Conv<auto_pad="VALID">({x}, {n}w)', constants={"w": _random(2, 4, 3, 3)}),
    "conv_transpose": Case(
        "{y} = ConvTranspose<strides=[2, 3], pads=[1, 0, 2, 1], output_padding=[1, 2]>({x}, {n}w, {n}b)",
        constants={"w": _random(4, 5, 3, 4), "b": _random(5)},
        trained=("w", "b"),
    ),
    "conv_transpose_grouped": Case(
        "{y} = ConvTranspose<group=2, dilations=[2, 1]>({x}, {n}w)",
        constants={"w": _random(4, 3, 3, 2)},
        trained=("w",),
    ),
    "conv_transpose_shape": Case(
        "{y} = ConvTranspose<strides=[2, 2], output_shape=[12, 12]>({x}, {n}w)",
        constants={"w": _random(4, 2, 3, 3)},
    ),
    "average_pool": Case("{y} = AveragePool<kernel_shape=[2, 3], strides=[2, 1]>({x})"),
    "average_pool_padded": Case("{y} = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>({x})"),
    "average_pool_with_pads": Case(
        "{y} = AveragePool<kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1, strides=[2, 2]>({x})"
    ),
    "average_pool_ceil": Case("{y} = AveragePool<kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1>({x})"),
    "average_pool_same": Case(
        '{y} = AveragePool<kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER">({x})'
    ),
    "average_pool_whole": Case("{y} = AveragePool<kernel_shape=[6, 6]>({x})"),
    "global_max_pool": Case("{y} = GlobalMaxPool({x})"),
    "reduce_max": Case("{y} = ReduceMax<axes=[1, -1], keepdims=0>({x})"),
    "reduce_min": Case("{y} = ReduceMin<axes=[2]>({x})"),
    "reduce_max_18": Case("{y} = ReduceMax<keepdims=0>({x}, hw)", 21),
    "reduce_l1": Case("{y} = ReduceL1<axes=[1], keepdims=0>({x})"),
    "reduce_sum_square": Case("{y} = ReduceSumSquare<axes=[2, 3]>({x})"),
    "reduce_log_sum": Case("{n}a = Abs({x})\n{n}e = Exp({n}a)\n{y} = ReduceLogSum<axes=[1]>({n}e)"),
    "reduce_l2": Case("{y} = ReduceL2<axes=[1], keepdims=0>({x})"),
    "reduce_log_sum_exp": Case("{y} = ReduceLogSumExp<axes=[2, 3], keepdims=0>({x})"),
    "sum": Case("{n}a = Sigmoid({x})\n{y} = Sum({x}, {n}a, {x})"),
    "mean": Case("{n}a = Sigmoid({x})\n{y} = Mean({x}, {n}a, {n}a)"),
    "split_unused": Case("{n}a, {n}b, {n}c = Split<axis=1>({x}, split)\n{y} = Tanh({n}b)"),
    "split_equal_unused": Case("{n}a, {n}b = Split<axis=-1>({x})\n{y} = Tanh({n}b)"),
    "where": Case(
        "{n}c = Greater({x}, zero)\n{n}m = ReduceMean<axes=[1]>({x})\n{y} = Where({n}c, {x}, {n}m)"
    ),
    "transpose": Case("{n}t = Transpose({x})\n{n}s = Tanh({n}t)\n{y} = Transpose<perm=[3, 2, 1, 0]>({n}s)"),
    "pad_reflect": Case('{y} = Pad<mode="reflect">({x}, pads)'),
    "pad_edge": Case('{y} = Pad<mode="edge">({x}, mixed)'),
    "pad_axes": Case("{y} = Pad({x}, side, , minus)", 21),
    "depth_to_space": Case("{y} = DepthToSpace<blocksize=2>({x})"),
    "depth_to_space_crd": Case('{y} = DepthToSpace<blocksize=2, mode="CRD">({x})'),
    "space_to_depth": Case("{y} = SpaceToDepth<blocksize=2>({x})"),
    "matmul_vector": Case("{y} = MatMul({x}, {n}v)", constants={"v": _random(6)}, trained=("v",)),
    "power": Case("{y} = Pow({x}, two)"),
    "resize_nearest": Case('{y} = Resize<mode="nearest">({x}, , scales)'),
    "resize_asymmetric": Case(
        '{y} = Resize<mode="nearest", nearest_mode="floor", '
        'coordinate_transformation_mode="asymmetric">({x}, , scales)'
    ),
    "resize_linear": Case('{y} = Resize<mode="linear">({x}, , scales)'),
    "resize_corners": Case(
        '{y} = Resize<mode="linear", coordinate_transformation_mode="align_corners">({x}, , , sizes)'
    ),
    "resize_cubic": Case('{y} = Resize<mode="cubic">({x}, , scales)'),
    "instance_norm": Case(
        "{y} = InstanceNormalization({x}, {n}s, {n}b)",
        constants={"s": _random(4), "b": _random(4)},
        trained=("s", "b"),
    ),
    "group_norm": Case(
        "{y} = GroupNormalization<num_groups=2>({x}, {n}s, {n}b)",
        21,
        constants={"s": _random(4), "b": _random(4)},
        trained=("s", "b"),
    ),
    "layer_norm": Case(
        "{y} = LayerNormalization<axis=-1>({x}, {n}s)", constants={"s": _random(6)}, trained=("s",)
    ),
    "lp_norm": Case("{y} = LpNormalization<axis=1, p=2>({x})"),
    "l1_norm": Case("{y} = LpNormalization<axis=1, p=1>({x})"),
    "lrn": Case("{y} = LRN<size=3, alpha=0.5, beta=0.6, bias=1.5>({x})"),
    "lp_pool": Case("{y} = LpPool<kernel_shape=[2, 3], strides=[2, 1], p=3>({x})"),
    "global_lp_pool": Case("{y} = GlobalLpPool({x})"),
    "mean_variance_norm": Case("{y} = MeanVarianceNormalization<axes=[2, 3]>({x})"),
    "shrink": Case("{y} = Shrink<lambd=0.3, bias=0.2>({x})"),
    "sinh": Case("{y} = Sinh({x})"),
    "cosh": Case("{y} = Cosh({x})"),
    "asinh": Case("{y} = Asinh({x})"),
    "acosh": Case("{n}e = Exp({x})\n{n}f = Add({n}e, one)\n{y} = Acosh({n}f)"),
    "atanh": Case("{n}t = Tanh({x})\n{n}h = Mul({n}t, half)\n{y} = Atanh({n}h)"),
    "tan": Case("{n}t = Tanh({x})\n{y} = Tan({n}t)"),
    "cast_like": Case("{y} = CastLike({x}, half)"),
    "reverse_sequence": Case("{y} = ReverseSequence<batch_axis=0, time_axis=1>({x}, four_each)"),
    "einsum": Case(
        '{y} = Einsum<equation="nchw,cd->nhwd">({x}, {n}e)', constants={"e": _random(4, 5)}, trained=("e",)
    ),
    "einsum_attention": Case('{n}t = Tanh({x})\n{y} = Einsum<equation="bhid,bhjd->bhij">({x}, {n}t)'),
    "einsum_three": Case(
        '{y} = Einsum<equation="nchw,wv,c->nvh">({x}, {n}e, {n}f)',
        constants={"e": _random(6, 3), "f": _random(4)},
        trained=("e", "f"),
    ),
    "einsum_one": Case('{y} = Einsum<equation="nchw->nwc">({x})'),
    "cum_sum": Case("{y} = CumSum({x}, two)"),
    "cum_sum_exclusive": Case("{y} = CumSum<exclusive=1, reverse=1>({x}, minus)"),
    "reduce_prod": Case(
        "{n}s = Sigmoid({x})\n{n}t = Add({n}s, half)\n{y} = ReduceProd<axes=[1, 3], keepdims=0>({n}t)"
    ),
    "rnn": Case(
        SEQUENCE + "{n}o, {n}h = RNN<hidden_size=3>({n}q, {n}w, {n}r, {n}b)" + BACK,
        constants=_cell(1, 1),
        trained=CELL,
    ),
    "rnn_both": Case(
        SEQUENCE + '{n}s, {n}h = RNN<hidden_size=3, direction="bidirectional", activations=["Relu", "Tanh"]>'
        "({n}q, {n}w, {n}r)\n{n}o = ReduceSum({n}s, one_axis)" + BACK,
        constants=_cell(1, 2, bias=False),
        trained=CELL[:2],
    ),
    "lstm": Case(
        SEQUENCE + "{n}o, {n}h, {n}c = LSTM<hidden_size=3>({n}q, {n}w, {n}r, {n}b)" + BACK,
        constants=_cell(4, 1),
        trained=CELL,
    ),
    "lstm_reverse": Case(
        SEQUENCE + '{n}s, {n}h, {n}c = LSTM<hidden_size=3, direction="reverse">({n}q, {n}w, {n}r)\n'
        "{n}o = Add({n}s, {n}c)" + BACK,
        constants=_cell(4, 1, bias=False),
        trained=CELL[:2],
    ),
    "lstm_both": Case(
        SEQUENCE
        + '{n}s, {n}h, {n}c = LSTM<hidden_size=3, direction="bidirectional">({n}q, {n}w, {n}r, {n}b)\n'
        "{n}o = Add({n}s, {n}h)" + BACK,
        constants=_cell(4, 2),
        trained=CELL,
    ),
    "gru_both": Case(
        SEQUENCE + '{n}o, {n}h = GRU<hidden_size=3, direction="bidirectional", linear_before_reset=1>'
        "({n}q, {n}w, {n}r, {n}b)" + BACK,
        constants=_cell(3, 2),
        trained=CELL,
    ),
    "fused_conv": Case(
        "{n}z = Tanh({x})\n{y} = com.microsoft.FusedConv"
        '<activation="HardSigmoid", activation_params=[0.3, 0.4]>'
        "({x}, {n}w, {n}b, {n}z)",
        constants={"w": _random(4, 4, 1, 1), "b": _random(4)},
        trained=("w", "b"),
    ),
    "fused_gemm": Case(
        "{n}f = Flatten({x})\n{y} = com.microsoft.FusedGemm"
        '<activation="LeakyRelu", activation_alpha=0.2>({n}f, {n}w)',
        constants={"w": _random(144, 3)},
        trained=("w",),
    ),
    "fused_mat_mul": Case(
        "{y} = com.microsoft.FusedMatMul<transB=1, alpha=0.5>({x}, {n}w)",
        constants={"w": _random(5, 6)},
        trained=("w",),
    ),
    "transpose_mat_mul": Case(
        "{y} = com.microsoft.TransposeMatMul<transA=1>({x}, {n}w)",
        constants={"w": _random(6, 5)},
        trained=("w",),
    ),
    "skip_layer_norm": Case(
        "{n}q = Reshape({x}, rows)\n{n}t = Tanh({n}q)\n"
        "{n}s, , , {n}a = com.microsoft.SkipLayerNormalization({n}q, {n}t, {n}w, {n}b, {n}c)\n"
        "{y} = Mul({n}s, {n}a)",
        constants={"w": _random(6), "b": _random(6), "c": _random(6)},
        trained=("w", "b", "c"),
    ),
    "skip_rms_norm": Case(
        "{n}q = Reshape({x}, rows)\n{n}t = Tanh({n}q)\n"
        "{y} = com.microsoft.SkipSimplifiedLayerNormalization({n}q, {n}t, {n}w)",
        constants={"w": _random(6)},
        trained=("w",),
    ),
    "simplified_norm": Case(
        "{y} = SimplifiedLayerNormalization({x}, {n}w)", constants={"w": _random(6)}, trained=("w",)
    ),
    **{
        name: Case(f"{{y}} = {body}")
        for name, body in {
            "abs": "Abs({x})",
            "clip": "Clip({x}, minus_half, half)",
            "cos": "Cos({x})",
            "erf": "Erf({x})",
            "exp": "Exp({x})",
            "expand": "Expand({x}, batch_shape)",
            "flatten": "Flatten({x})",
            "gather": "Gather<axis=1>({x}, side)",
            "gather_elements": "GatherElements<axis=3>({x}, elements)",
            "gather_nd": "GatherND<batch_dims=1>({x}, points_each)",
            "global_average_pool": "GlobalAveragePool({x})",
            "identity": "Identity({x})",
            "leaky_relu": "LeakyRelu<alpha=0.2>({x})",
            "log_softmax": "LogSoftmax<axis=1>({x})",
            "max": "Max({x}, half)",
            "min": "Min({x}, half)",
            "max_pool": "MaxPool<kernel_shape=[2, 3], strides=[2, 1], pads=[1, 0, 0, 1]>({x})",
            "max_pool_ceil": "MaxPool<kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1>({x})",
            "max_pool_same": 'MaxPool<kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER">({x})',
            "neg": "Neg({x})",
            "reduce_mean": "ReduceMean<axes=[2, 3]>({x})",
            "reduce_sum": "ReduceSum<keepdims=0>({x}, hw)",
            "relu": "Relu({x})",
            "reshape": "Reshape({x}, rows)",
            "scatter_elements": "ScatterElements<axis=3>({x}, elements, updates)",
            "scatter_nd": "ScatterND({x}, points, rows_of_updates)",
            "sigmoid": "Sigmoid({x})",
            "sin": "Sin({x})",
            "slice": "Slice({x}, side, last, hw)",
            "softmax": "Softmax<axis=-1>({x})",
            "tanh": "Tanh({x})",
            "tile": "Tile({x}, repeats)",
            "trilu": "Trilu({x})",
            "unsqueeze": "Unsqueeze({x}, one_axis)",
            "fast_gelu": "com.microsoft.FastGelu({x})",
            "quick_gelu": "com.microsoft.QuickGelu({x})",
            "own_gelu": "com.microsoft.Gelu({x})",
        }.items()
    },
    "gelu": Case("{y} = Gelu({x})", 21),
    "gelu_tanh": Case('{y} = Gelu<approximate="tanh">({x})', 21),
    "bias_gelu": Case("{y} = com.microsoft.BiasGelu({x}, {n}b)", constants={"b": _random(6)}, trained=("b",)),
    "add": Case("{n}t = Tanh({x})\n{y} = Add({x}, {n}t)"),
    "sub": Case("{n}m = ReduceMean<axes=[1]>({x})\n{y} = Sub({x}, {n}m)"),
    "mul": Case("{n}g = GlobalAveragePool({x})\n{n}s = Sigmoid({n}g)\n{y} = Mul({x}, {n}s)"),
    "div": Case("{n}s = Sigmoid({x})\n{y} = Div({x}, {n}s)"),
    "log": Case("{n}e = Sigmoid({x})\n{y} = Log({n}e)"),
    "sqrt": Case("{n}e = Sigmoid({x})\n{y} = Sqrt({n}e)"),
    "reciprocal": Case("{n}e = Exp({x})\n{n}f = Add({n}e, one)\n{y} = Reciprocal({n}f)"),
    "concat": Case("{n}t = Tanh({x})\n{y} = Concat<axis=1>({n}t, {x})"),
    "split_all": Case(
        "{n}a, {n}b, {n}c = Split<axis=1>({x}, split)\n{n}d = Concat<axis=1>({n}c, {n}a)\n"
        "{y} = Mul({n}d, {n}b)"
    ),
    "squeeze": Case("{n}g = GlobalAveragePool({x})\n{y} = Squeeze({n}g, hw)"),
    "top_k": Case("{y}, {n}i = TopK<axis=1>({x}, two_of)"),
    "cast": Case("{n}d = Cast<to=11>({x})\n{y} = Cast<to=1>({n}d)"),
    "gemm": Case(
        "{n}f = Flatten({x})\n{y} = Gemm<alpha=0.5, beta=2.0, transB=1>({n}f, {n}w, {n}b)",
        constants={"w": _random(3, 144), "b": _random(3)},
        trained=("w", "b"),
    ),
    "conv_plain": Case(
        "{y} = Conv<group=2, pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2]>({x}, {n}w, {n}b)",
        constants={"w": _random(6, 2, 3, 2), "b": _random(6)},
        trained=("w", "b"),
    ),
    "conv_dense": Case(
        "{y} = Conv<pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2]>({x}, {n}w, {n}b)",
        constants={"w": _random(24, 4, 3, 2), "b": _random(24)},
        trained=("w", "b"),
    ),
    "conv_pointwise": Case(
        "{y} = Conv({x}, {n}w)",
        constants={"w": _random(24, 4, 1, 1)},
        trained=("w",),
    ),
    "conv_depthwise": Case(
        "{y} = Conv<group=4, pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2]>({x}, {n}w, {n}b)",
        constants={"w": _random(4, 1, 3, 3), "b": _random(4)},
        trained=("w", "b"),
    ),
    "conv_depthwise_of_a_line": Case(
        "{n}r = Reshape({x}, batch_line)\n"
        "{n}c = Conv<group=4, pads=[1, 1], kernel_shape=[5]>({n}r, {n}w)\n{y} = Tanh({n}c)",
        constants={"w": _random(4, 1, 5)},
        trained=("w",),
    ),
    "conv_depthwise_twofold": Case(
        "{y} = Conv<group=4, pads=[1, 1, 1, 1]>({x}, {n}w)",
        constants={"w": _random(8, 1, 3, 3)},
        trained=("w",),
    ),
    "inverted_residual": Case(
        "{n}e = Conv({x}, {n}w, {n}b)\n{n}r = Clip({n}e, minus_half, one)\n"
        "{n}d = Conv<group=8, pads=[1, 1, 1, 1]>({n}r, {n}k, {n}c)\n{n}h = HardSwish({n}d)\n"
        "{n}p = Conv({n}h, {n}v)\n{n}a = Add({x}, {n}p)\n{y} = Relu({n}a)",
        constants={
            "w": _random(8, 4, 1, 1),
            "b": _random(8),
            "k": _random(8, 1, 3, 3),
            "c": _random(8),
            "v": _random(4, 8, 1, 1),
        },
        trained=("w", "b", "k", "c", "v"),
    ),
    "depthwise_branches": Case(
        "{n}l = Conv<group=4, pads=[1, 1, 1, 1], strides=[2, 2]>({x}, {n}k)\n"
        "{n}m = Conv<group=4, pads=[2, 2, 2, 2], strides=[2, 2]>({x}, {n}c)\n"
        "{n}j = Concat<axis=1>({n}l, {n}m)\n{n}s = Mul({n}j, {n}f)\n"
        "{n}g = GlobalAveragePool({n}s)\n{n}h = Conv({n}g, {n}w, {n}b)\n{n}q = Sigmoid({n}h)\n"
        "{n}d = Mul({n}s, {n}q)\n{n}i = Conv<group=8, pads=[1, 1, 1, 1]>({n}d, {n}o)\n{y} = Tanh({n}i)",
        constants={
            "k": _random(4, 1, 3, 3),
            "c": _random(4, 1, 5, 5),
            "f": _random(8, 1, 1),
            "w": _random(8, 8, 1, 1),
            "b": _random(8),
            "o": _random(8, 1, 3, 3),
        },
        trained=("k", "c", "f", "w", "b", "o"),
    ),
    "rms_norm": Case(
        "{n}r = RMSNormalization<axis=-2>({x}, {n}s)\n{y} = MatMul({n}r, {n}v)",
        24,
        {"s": _random(6, 6), "v": _random(6, 2)},
        ("s", "v"),
    ),
    "swish": Case("{y} = Swish<alpha=1.5>({x})", 24),
    "slice_back": Case("{y} = Slice({x}, ends_of, minus_far, hw, back)"),
    "reduce_sum_nothing": Case("{n}r = ReduceSum<noop_with_empty_axes=1>({x})\n{y} = Tanh({n}r)"),
    "upsample": Case('{y} = Upsample<mode="linear">({x}, doubled)', 9),
    "upsample_nearest": Case('{y} = Upsample<mode="nearest">({x}, doubled)', 9),
    "scatter": Case("{y} = Scatter<axis=3>({x}, elements, updates)", 9),
    "repeated_parameter": Case(
        "{n}m = MatMul({n}v, {n}v)\n{y} = MatMul({x}, {n}m)", constants={"v": _random(6, 6)}
    ),
}


def network_of(opset: int) -> onnx.ModelProto:
    """All cases of one operator set, each with a weight and an output of its own."""
    cases = {name: case for name, case in CASES.items() if case.opset == opset}
    lines = []
    constants = {**INTS, "scales": SCALES, "sizes": SIZES, "zero": np.float32(0), "two": np.int64(2)}
    constants["doubled"] = np.array([1, 1, 2, 2], np.float32)
    constants |= {"one": np.float32(1), "half": np.float32(0.5), "minus_half": np.float32(-0.5)}
    constants |= {
        "true": np.array(True),
        "updates": _random(BATCH, 4, 6, 2),
        "rows_of_updates": _random(2, 6),
    }
    constants["elements"] = np.random.default_rng(0).permuted(
        np.tile(np.arange(6), (BATCH, 4, 6, 1)), axis=3
    )[..., :2]
    constants["sizes"][0] = BATCH
    for name, case in cases.items():
        lines.append(f"{name}_x = Conv(image, {name}_weight)")
        lines.append(case.body.format(x=f"{name}_x", y=name, n=f"{name}_"))
        constants[f"{name}_weight"] = np.random.default_rng(len(name)).normal(size=(4, 4, 1, 1)) / 2
        constants |= {f"{name}_{key}": value for key, value in case.constants.items()}
    outputs = ", ".join(f"float {name}" for name in cases)
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n'
        f"cases (float[N, {CHANNELS}, {SIZE}, {SIZE}] image) => ({outputs}) {{\n" + "\n".join(lines) + "\n}"
    )
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    for name, values in constants.items():
        array = values.astype(np.float32) if np.asarray(values).dtype.kind == "f" else np.asarray(values)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


FUNCTIONS = {"Acos", "Asin", "Atan"}
"""Functions that only this engine differentiates."""
