"""Classification data in memory: the embedded set, TFDS, or a user's own.

One file a source. Each makes a `Dataset`, and raises `DataError`, which says what is
wrong, where, and what is accepted.
"""
