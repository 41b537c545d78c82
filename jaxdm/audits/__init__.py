"""What models on random subsets say of the training set itself."""
