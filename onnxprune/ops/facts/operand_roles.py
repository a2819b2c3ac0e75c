"""Roles of operands: lists of numbers, zero points, parameters that the result is linear in."""

from __future__ import annotations

from onnxprune.ops.spec import MICROSOFT, enter_all

enter_all("ConstantOfShape", lists=(0,))
enter_all(
    "CumSum Expand Gather GatherElements GatherND Reshape ScatterElements ScatterND Split Squeeze Tile TopK "
    "Unsqueeze Upsample",
    lists=(1,),
)
enter_all(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare",
    lists=(1,),
)
enter_all("OneHot", lists=(0, 1))
enter_all("Pad", lists=(1, 3))
enter_all("Range", lists=(0, 1, 2))
enter_all("Resize", lists=(1, 2, 3))
enter_all("Slice", lists=(1, 2, 3, 4))

enter_all("DequantizeLinear QuantizeLinear", zero_points=(2,))
enter_all("DequantizeLinear QuantizeLinear", MICROSOFT, zero_points=(2,))
enter_all("GatherBlockQuantized MatMulNBits", MICROSOFT, zero_points=(3,))

enter_all("Conv ConvTranspose Gemm LayerNormalization", affine=(1, 2))
enter_all("RMSNormalization SimplifiedLayerNormalization", affine=(1,))
enter_all("SimplifiedLayerNormalization", MICROSOFT, affine=(1,))
enter_all("Conv ConvTranspose Gemm MatMul", splits=True)

enter_all("ReduceL1 ReduceSum ReduceSumSquare", sums="sum")
enter_all("ReduceMean", sums="mean")

enter_all("Attention", attends=True)
enter_all("Attention GroupQueryAttention MultiHeadAttention QAttention", MICROSOFT, attends=True)
