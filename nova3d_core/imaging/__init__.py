"""Images before they become views."""
