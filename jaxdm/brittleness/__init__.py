"""How few training examples flip a prediction: search, then verification."""
