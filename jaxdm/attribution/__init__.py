"""Ways of choosing training examples: each makes scores[t, n], the highest goes first."""
