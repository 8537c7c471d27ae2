"""A CPU engine that is compiled for a model and a processor."""
