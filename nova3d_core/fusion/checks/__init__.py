"""Checks of the input views before a fusion."""
