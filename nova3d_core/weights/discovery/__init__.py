"""Finding model files, and identifying the model in each."""
