"""How few training examples must change before a prediction falls: search, then proof."""
