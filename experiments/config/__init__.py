"""What an experiment is made of: its settings, presets, and their flags."""
