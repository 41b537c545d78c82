"""Trains the models: one, many at once, and on demand with their margins remembered."""
