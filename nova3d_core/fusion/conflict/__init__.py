"""Conflict between views: H of eq. 4 and 5, and the exposure of each view."""
