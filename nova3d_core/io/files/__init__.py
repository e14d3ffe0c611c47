"""File handling: atomic writes, containment, ownership, text and JSON parsing."""
