"""Training: the corpus, the loop, what it tells, and processes that share the work."""
