"""Small models, checkpoints and bundles that the tests share; each is made once a session."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from edgegpt.char_tokenizer import build_char_tokenizer
from edgegpt.checkpoint import save_config, save_weights
from edgegpt.export import export_bundle
from edgegpt.model import GPT, GPTConfig

TEXT = (
    "The wind was up before the sun, and the boats lay hard against the quay.\n"
    "'Who goes?' said Anna; 'friend or stranger, speak!'\n"
    "No answer came but rain, rain on tin roofs, quick as fingers.\n"
) * 4


def small_config(**changes: object) -> GPTConfig:
    """Return the character GPT's shape, in small."""
    settings = {
        "vocab_size": len(set(TEXT)),
        "block_size": 32,
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 32,
        "head_bias": True,
    }
    return GPTConfig.from_dict(settings | changes)


def random_model(config: GPTConfig, seed: int = 0) -> GPT:
    """Return an untrained model whose every weight matters: nothing is zero, one or tiny."""
    torch.manual_seed(seed)
    model = GPT(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            spread = 0.2 if parameter.dim() > 1 else 0.1
            parameter.copy_(centre + spread * torch.randn_like(parameter))
    return model


def write_checkpoint(folder: Path, model: GPT, text: str | None = TEXT) -> Path:
    """Write a checkpoint folder; without a text it has no tokenizer."""
    folder.mkdir(parents=True)
    save_config(folder, model.config)
    save_weights(folder, model, torch.float32)
    if text is not None:
        (folder / "tokenizer.json").write_text(build_char_tokenizer(text).to_str())
        (folder / "held_out.txt").write_text(text)
    return folder


@pytest.fixture(autouse=True, scope="session")
def own_user_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep downloads and receipts of the tests out of the user's own folders."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
            patch.setenv(variable, str(tmp_path_factory.mktemp(variable.lower())))
        yield


@pytest.fixture(scope="session")
def small_model() -> GPT:
    return random_model(small_config())


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory, small_model: GPT) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small", small_model)


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Path:
    """A float32 bundle of `small_model`. Read-only: copy it before damaging it."""
    out = tmp_path_factory.mktemp("bundle") / "small"
    export_bundle(small_checkpoint, out)
    return out
