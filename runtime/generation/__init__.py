"""Prompts in, tokens out: prefill, sampling, speculation, the loop, and one call as a run."""
