"""The pages of an experiment: their sentences, sections and pictures."""
