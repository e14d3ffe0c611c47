"""Which model files exist, and what each file really is."""
