"""Operators on text."""

from __future__ import annotations

import onnx

from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.table import size_rule


@size_rule("StringConcat")
def string_concat(node: SizedNode) -> None:
    """The shapes broadcast."""
    node.put(0, node.broadcast([node.shape(0), node.shape(1)]))


@size_rule("RegexFullMatch")
def regex_full_match(node: SizedNode) -> None:
    """A yes or no for each string."""
    node.put(0, node.shape(), onnx.TensorProto.BOOL)


@size_rule("StringSplit")
def string_split(node: SizedNode) -> None:
    """As many parts as the string of most parts has, and the number of parts of each string."""
    shape = node.shape()
    node.put(0, None if shape is None else [*shape, node.fresh(0, len(shape))])
    node.put(1, shape, onnx.TensorProto.INT64)


@size_rule("StringNormalizer")
def string_normalizer(node: SizedNode) -> None:
    """The strings that are no stop words: at least one."""
    shape = node.shape()
    if shape is None:
        node.put(0, None)
    elif not node.attribute("stopwords"):
        node.put(0, shape)
    else:
        node.put(0, [*shape[:-1], node.fresh(0, len(shape) - 1, 1)])


@size_rule("TfIdfVectorizer")
def tf_idf_vectorizer(node: SizedNode) -> None:
    """A number for each n-gram of the vocabulary, for each row of tokens."""
    shape, places = node.shape(), node.attribute("ngram_indexes")
    if shape is None:
        node.put(0, None, onnx.TensorProto.FLOAT)
        return
    count = max(places) + 1 if places else node.fresh(0, len(shape) - 1)
    node.put(0, [*shape[:-1], count], onnx.TensorProto.FLOAT)
