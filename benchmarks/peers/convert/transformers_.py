"""Make a Hugging Face checkpoint with seeded random weights; all other formats derive from it.

python convert/transformers_.py SHAPE OUT
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

sys.path.insert(0, str(Path(__file__).parents[1]))

from shapes import SHAPES, Shape

SEED = 1
DEVIATION = 0.02  # of the weights, as GPT-2's


@torch.no_grad()
def fill(model: PreTrainedModel) -> None:
    """Fill every matrix [M, N] with random numbers that are the same along its anti-diagonals.

    That takes M + N - 1 numbers, so the files of the largest model become a few megabytes when they
    are packed, and can be carried to a machine without a network. Speed does not depend on them.
    """
    generator = torch.Generator().manual_seed(SEED)
    for matrix in (parameter for parameter in model.parameters() if parameter.dim() == 2):
        rows, columns = matrix.shape
        numbers = DEVIATION * torch.randn(rows + columns - 1, generator=generator)
        matrix.copy_(numbers.as_strided((rows, columns), (1, 1)))


def random_model(shape: Shape) -> PreTrainedModel:
    """Return a float32 model. It has no dropout, so that eval mode changes nothing."""
    torch.manual_seed(SEED)
    common = {
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    if shape.family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                n_layer=shape.layers,
                n_head=shape.heads,
                n_embd=shape.width,
                n_inner=shape.feed_forward,
                n_positions=shape.context,
                activation_function=shape.activation,
                **common,
            )
        )
    if shape.family == "bart":
        return BartForConditionalGeneration(
            BartConfig(
                encoder_layers=shape.layers,
                decoder_layers=shape.layers,
                encoder_attention_heads=shape.heads,
                decoder_attention_heads=shape.heads,
                encoder_ffn_dim=shape.feed_forward,
                decoder_ffn_dim=shape.feed_forward,
                d_model=shape.width,
                max_position_embeddings=shape.context,
                activation_function=shape.activation,
                dropout=0.0,
                pad_token_id=0,
                decoder_start_token_id=0,
                forced_eos_token_id=None,
                normalize_before=False,  # as in published files; CTranslate2's converter reads both
                normalize_embedding=True,
                **common,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            hidden_size=shape.width,
            intermediate_size=shape.feed_forward,
            max_position_embeddings=shape.context,
            hidden_act=shape.activation,
            rms_norm_eps=1e-5,
            **common,
        )
    )


def placeholder_tokenizer(shape: Shape) -> PreTrainedTokenizerFast:
    """Return a tokenizer of words t0, t1, ...; some converters need a tokenizer."""
    words = models.WordLevel({f"t{token}": token for token in range(shape.vocab)}, unk_token="t0")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), bos_token="t0", eos_token="t0", unk_token="t0"
    )


if __name__ == "__main__":
    shape, out = SHAPES[sys.argv[1]], Path(sys.argv[2])
    model = random_model(shape)
    fill(model)
    model.save_pretrained(out)
    placeholder_tokenizer(shape).save_pretrained(out)
