"""Split a corpus into a part for training and a part for validation."""

__all__ = ["TRAIN_FRACTION", "validation_part"]

# Training sees this fraction of a corpus, from its beginning; the rest is for validation.
TRAIN_FRACTION = 0.9


def validation_part(ids: list[int]) -> list[int]:
    """Return the ids that `edgegpt train` keeps for validation: the last tenth."""
    return ids[int(len(ids) * TRAIN_FRACTION) :]
