"""Wrong uses and right sets of views, for the benchmark view_checks."""
