"""Analyses of a module: sizes, valid inputs, groups of channels, evidence of dead channels."""
