"""UV unwrapping."""
