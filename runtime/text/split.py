"""How a corpus is cut: what training sees, and what is kept for validation."""

__all__ = ["TRAIN_FRACTION", "validation_part"]

# Training sees this part of a corpus, from the beginning; the rest is for validation.
TRAIN_FRACTION = 0.9


def validation_part(ids: list[int]) -> list[int]:
    """Return the ids that `edgegpt train` keeps for validation: the last tenth."""
    return ids[int(len(ids) * TRAIN_FRACTION) :]
