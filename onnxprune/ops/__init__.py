"""Operator knowledge: axes, sizes, and all other facts of each operator."""
