"""Sparse linear models from training sets to margins: fit, predictions, their quality."""
