"""People drawn by code."""
