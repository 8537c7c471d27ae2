"""The fault gallery of encoder-decoders: the proof must find every planted fault.

Each is planted in a runtime over ONNX Runtime, and over PyTorch, which measures how far it moves
the golden logits. `pytest tests/faults/test_source_faults.py -s` prints the table.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from faults_sources import SOURCE_FAULTS
from pair_checkpoints import USAGE, write_pair_checkpoint
from seq2seq_models import VARIANTS, seq2seq
from torch_engine import TorchEngine

from edgegpt.checkpoint import save_config
from edgegpt.export import export_bundle
from edgegpt.model import Seq2Seq
from edgegpt.runtime.bundle.bundle import Bundle
from edgegpt.runtime.bundle.search import Search
from edgegpt.runtime.engines.choice import open_engine
from edgegpt.runtime.engines.options import EngineOptions
from edgegpt.runtime.generation.beams import BeamSearch
from edgegpt.runtime.proof.tolerances import TOLERANCES
from edgegpt.runtime.proof.verify import verify_engine

TOLERANCE = TOLERANCES["float32"]
TABLE: list[str] = []


@pytest.fixture(scope="module")
def specimen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Seq2Seq, Bundle]:
    folder, model = tmp_path_factory.mktemp("pairs"), seq2seq(VARIANTS["bart"])
    export_bundle(write_pair_checkpoint(folder / "ckpt", model), folder / "bundle")
    return model, Bundle.open(folder / "bundle")


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    yield
    print("\n" + "\n".join(TABLE))


@pytest.mark.parametrize("fault", SOURCE_FAULTS)
def test_a_wrong_source_is_caught(specimen: tuple[Seq2Seq, Bundle], fault: str) -> None:
    model, bundle = specimen
    wrap = SOURCE_FAULTS[fault]
    in_torch = verify_engine(bundle, wrap(TorchEngine(model)))
    movement = max(check.difference.relative for check in in_torch.checks)
    assert movement > 3 * TOLERANCE  # otherwise this test would show nothing
    receipt = verify_engine(bundle, wrap(open_engine(bundle, EngineOptions("cpu"))))
    failed = [check.name for check in receipt.checks if not check.passed]
    assert failed
    TABLE.append(f"{fault:<40}{movement:>10.1e}  {', '.join(failed)}")


@pytest.fixture(scope="module")
def with_first_token(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose texts begin with a forced token."""
    folder, model = tmp_path_factory.mktemp("forced"), seq2seq(VARIANTS["paper"])
    checkpoint = write_pair_checkpoint(folder / "ckpt", model)
    usage = replace(USAGE, search=Search(forced_bos=9))
    save_config(checkpoint, model.config, usage)
    export_bundle(checkpoint, folder / "bundle")
    return Bundle.open(folder / "bundle")


def failed_on(bundle: Bundle) -> list[str]:
    receipt = verify_engine(bundle, open_engine(bundle, EngineOptions("cpu")))
    return [check.name for check in receipt.checks if not check.passed]


def test_a_length_penalty_that_counts_the_start_is_caught(
    with_first_token: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not failed_on(with_first_token)
    monkeypatch.setattr(BeamSearch, "_divisor", lambda self, length: float(length + 1))
    assert failed_on(with_first_token) == ["beams"]
    TABLE.append("length penalty off by the start token".ljust(52) + "beams")


def test_a_forced_first_token_that_is_missing_is_caught(
    with_first_token: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgegpt.runtime.generation.wanted.edits_of", lambda *_: ())
    assert failed_on(with_first_token) == ["beams"]
    TABLE.append("forced first token missing".ljust(52) + "beams")


def test_an_honest_torch_engine_passes(specimen: tuple[Seq2Seq, Bundle]) -> None:
    model, bundle = specimen
    assert verify_engine(bundle, TorchEngine(model)).passed


def test_the_tables_of_encoder_and_decoder_are_told_apart(
    specimen: tuple[Seq2Seq, Bundle], tmp_path: Path
) -> None:
    model, bundle = specimen
    swapped = seq2seq(VARIANTS["bart"])
    swapped.load_state_dict(model.state_dict())
    tables = swapped.encoder.position_embedding.weight, swapped.decoder.position_embedding.weight
    tables[0].data, tables[1].data = tables[1].data, tables[0].data
    assert not verify_engine(bundle, TorchEngine(swapped)).passed
