"""Readers of checkpoints in other layouts, one module per layout."""
