"""Checkpoints of other layouts, one module a layout."""
