"""Families of encoder-decoders: imported, they compute what transformers computes."""

from pathlib import Path

import pytest
from pair_configs import CASES, error, imported, save_pair
from tiny_checkpoints import LIMIT


@pytest.mark.parametrize("name", list(CASES))
def test_an_imported_pair_computes_what_transformers_does(tmp_path: Path, name: str) -> None:
    theirs = save_pair(CASES[name], tmp_path / "source")
    ours, found = imported(tmp_path / "source", tmp_path / "checkpoint")
    assert error(theirs, ours) <= LIMIT
    assert found.notes == []
