"""How the command ends. 0 is success, and 2, for wrong usage, is click's own."""

__all__ = ["FAILURE", "INTERRUPTED"]

FAILURE = 1
INTERRUPTED = 130  # 128 and SIGINT's number, as shells have it
