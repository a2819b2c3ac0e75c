"""Operators whose results jump, stay flat, or round where their operands change a little."""

from __future__ import annotations

from onnxprune.ops.spec import MICROSOFT, enter_all

CLASSICAL = "ai.onnx.ml"
COMPARISONS = "Equal Greater GreaterOrEqual Less LessOrEqual"

enter_all(
    f"{COMPARISONS} ArgMax ArgMin Bernoulli Ceil Compress Floor Hardmax Mod Multinomial NonMaxSuppression "
    "NonZero Round Sign TfIdfVectorizer TopK Unique",
    jumps=True,
)
enter_all("LinearClassifier TreeEnsemble TreeEnsembleClassifier TreeEnsembleRegressor", CLASSICAL, jumps=True)
enter_all(
    "Clip HardSigmoid HardSwish Max Min PRelu Relu Shrink ThresholdedRelu Where",
    vanishes=True,
)
enter_all("Clip Erf HardSigmoid LogSoftmax Sigmoid Softmax Softsign Tanh", saturates=True)
enter_all("GRU LSTM", gates=3)
enter_all(
    f"{COMPARISONS} And ArgMax ArgMin ConstantOfShape IsInf IsNaN NonZero Not Or Shape Size Xor",
    discrete=True,
)

enter_all(
    "ConvInteger DynamicQuantizeLinear MatMulInteger QLinearConv QLinearMatMul QuantizeLinear", rounds=True
)
enter_all(
    "DynamicQuantizeLSTM DynamicQuantizeMatMul MatMulIntegerToFloat QAttention QEmbedLayerNormalization "
    "QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool "
    "QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere "
    "QOrderedAttention QuantizeLinear",
    MICROSOFT,
    rounds=True,
)
