"""Views to a surface."""
