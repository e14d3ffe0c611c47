"""Which model files are there, and which model each of them holds."""
