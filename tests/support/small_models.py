"""Make small models and their checkpoints, in the shape that a test needs."""

from pathlib import Path
from typing import TypeVar

import torch

from edgegpt.checkpoint import save_config, save_weights
from edgegpt.model import GPT, GPTConfig
from edgegpt.training.char_tokenizer import build_char_tokenizer

Model = TypeVar("Model", bound=torch.nn.Module)
TEXT = (
    "The wind was up before the sun, and the boats lay hard against the quay.\n"
    "'Who goes?' said Anna; 'friend or stranger, speak!'\n"
    "No answer came but rain, rain on tin roofs, quick as fingers.\n"
) * 4


def small_config(**changes: object) -> GPTConfig:
    """Return the configuration of a small character GPT."""
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
    """Return an untrained model in which every weight matters: none is zero, one or tiny."""
    torch.manual_seed(seed)
    return with_random_weights(GPT(config))


def with_random_weights(model: Model) -> Model:
    """Return the model after new weights of PyTorch's generator: none is zero, one or tiny."""
    model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            spread = 0.2 if parameter.dim() > 1 else 0.1
            parameter.copy_(centre + spread * torch.randn_like(parameter))
    return model


def write_checkpoint(folder: Path, model: GPT, text: str | None = TEXT) -> Path:
    """Write a checkpoint folder, with a tokenizer unless `text` is None."""
    folder.mkdir(parents=True)
    save_config(folder, model.config)
    save_weights(folder, model, torch.float32)
    if text is not None:
        (folder / "tokenizer.json").write_text(build_char_tokenizer(text).to_str())
        (folder / "held_out.txt").write_text(text)
    return folder
