"""Other implementations of the same, to compare with."""
