"""Problems with trained models, on which scores of any method can be judged."""
