"""Pictures before they become views."""
