"""Prove that an engine computes what PyTorch computed: golden vectors, tolerances, receipts."""
