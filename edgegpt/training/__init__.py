"""Training: the corpus, the training loop, its log, and data-parallel processes."""
