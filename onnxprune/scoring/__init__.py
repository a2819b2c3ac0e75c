"""Scores of channels: criteria and the calibration statistics of each layer."""
