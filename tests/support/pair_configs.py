"""Small encoder-decoders of transformers, one of each family and of each of their switches."""

import json
from pathlib import Path
from typing import Any

import torch
from tiny_checkpoints import LIMIT  # noqa: F401 - keeps transformers quiet and off the network
from torch import Tensor
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BlenderbotConfig,
    M2M100Config,
    MarianConfig,
    MBartConfig,
    MT5Config,
    PegasusConfig,
    PLBartConfig,
    PretrainedConfig,
    PreTrainedModel,
    T5Config,
    UMT5Config,
)

from edgegpt.checkpoint import Seq2SeqConfig
from edgegpt.importers.open import open_source
from edgegpt.importers.run import Import, look, write
from edgegpt.importers.source import Source
from edgegpt.model import Seq2Seq
from edgegpt.model_weights import StoredWeights, load_model

__all__ = ["CASES", "LENGTHS", "T5", "VOCABULARY", "error", "imported", "save_pair", "texts"]

VOCABULARY, WIDTH, BLOCK = 41, 32, 24
LENGTHS = (9, 4, 6)
BART: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": BLOCK,
    "decoder_start_token_id": 2,
}
MARIAN: dict[str, Any] = BART | {
    "pad_token_id": 40,
    "decoder_start_token_id": 40,
    "scale_embedding": True,
    "activation_function": "swish",
}
T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
TWO = {
    "share_encoder_decoder_embeddings": False,
    "decoder_vocab_size": 37,
    "pad_token_id": 36,
    "decoder_start_token_id": 36,
}
CASES: dict[str, PretrainedConfig] = {
    "marian": MarianConfig(**MARIAN),
    "marian relu": MarianConfig(**MARIAN | {"activation_function": "relu"}),
    "marian of two vocabularies": MarianConfig(**MARIAN | TWO),
    "bart": BartConfig(**BART),
    "plbart": PLBartConfig(**BART),
    "mbart": MBartConfig(**BART | {"scale_embedding": True}),
    "blenderbot": BlenderbotConfig(**BART),
    "pegasus": PegasusConfig(**BART | {"scale_embedding": True, "activation_function": "relu"}),
    "m2m_100": M2M100Config(**BART),
    "m2m_100 of another padding": M2M100Config(**BART | {"pad_token_id": 0}),
    "t5": T5Config(**T5),
    "t5 v1.1": T5Config(**T5 | GATED),
    "mt5": MT5Config(**T5 | GATED),
    "umt5": UMT5Config(**T5 | GATED),
    "umt5 scaled": UMT5Config(**T5 | {"feed_forward_proj": "gated-silu"}),
}


def save_pair(
    config: PretrainedConfig, folder: Path, changes: dict[str, Any] | None = None
) -> PreTrainedModel:
    """Write a checkpoint with random weights that all matter; return transformers' model.

    T5 after 1.0 gets a head of its own, which transformers 5 would tie. `changes` are made to
    config.json; None as a value removes the setting.
    """
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager").eval().float()
    if not getattr(config, "scale_decoder_outputs", config.model_type != "mt5"):
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # the sines have no gradient
                parameter.add_(0.15 * torch.randn_like(parameter))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
    model.save_pretrained(folder)
    path = folder / "config.json"
    document = json.loads(path.read_text()) | (changes or {})
    kept = {name: value for name, value in document.items() if value is not None}
    path.write_text(json.dumps(kept))
    return model


def imported(source: Path | Source, out: Path) -> tuple[Seq2Seq, Import]:
    """Import a checkpoint into the new folder `out`; return the model as loaded."""
    found = look(open_source(source) if isinstance(source, Path) else source)
    out.mkdir()
    write(found, out)
    model = json.loads((out / "config.json").read_text())["model"]
    return load_model(
        Seq2SeqConfig.from_dict(model), StoredWeights(out / "model.safetensors")
    ), found


def texts(model: Seq2Seq, length: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Return sources [3, 9], their lengths, and targets [3, length], without ids of padding."""
    generator = torch.Generator().manual_seed(1)
    rows = model.config.encoder.vocab_size, model.config.decoder.vocab_size
    source = torch.randint(3, rows[0] - 1, (len(LENGTHS), max(LENGTHS)), generator=generator)
    target = torch.randint(3, rows[1] - 1, (len(LENGTHS), length), generator=generator)
    return source, torch.tensor(LENGTHS), target


@torch.no_grad()
def error(theirs: PreTrainedModel, ours: Seq2Seq, length: int = 7) -> float:
    """Return the largest difference of logits of ragged sources, relative to the largest logit."""
    source, lengths, target = texts(ours, length)
    mask = (torch.arange(source.shape[1]) < lengths[:, None]).long()
    expected = theirs(
        input_ids=source, attention_mask=mask, decoder_input_ids=target, use_cache=False
    ).logits
    return float((ours(source, lengths, target) - expected).abs().max() / expected.abs().max())
