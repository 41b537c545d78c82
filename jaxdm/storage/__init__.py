"""Files: stores of margins, checkpoints, caches, and what identifies their content."""
