"""CUDA itself, for every engine that runs on it: memory, streams, clocks, and one lock."""
