"""Model files: finding, identifying, loading and saving them."""
