"""Evaluation of a model: data, metrics, sensitivity, equivalence."""
