"""How few training examples must change before a prediction flips: search, then proof."""
