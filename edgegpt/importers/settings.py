"""The settings of a checkpoint from elsewhere: each is read by name, and none is skipped unseen.

A family of models reads the settings that it knows. `SourceSettings.finish` then refuses all
others, because a setting that edgegpt does not know may change what the model computes.
"""

import sys
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import CheckpointError
from .names import listed

__all__ = ["REFUSED", "SourceSettings"]

# What has no influence on the logits: training, bookkeeping, the choice of code, and generation,
# whose settings the importer of texts reads.
HOUSEKEEPING = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _flash_attn_2_enabled
    _name_or_path activation_dropout architectures attention_dropout
    attention_probs_dropout_prob attn_implementation attn_pdrop auto_map begin_suppress_tokens
    bos_token_id cache_implementation classifier_dropout classifier_dropout_prob custom_pipelines
    decoder_start_token_id do_sample dropout dtype embd_pdrop embed_dropout embedding_dropout
    eos_token_id finetuning_task fuse_matmul gradient_checkpointing hidden_dropout
    hidden_dropout_prob id2label init_std initializer_factor initializer_range is_decoder
    keys_to_ignore_at_inference label2id layerdrop max_length min_length model_type num_labels
    output_attentions output_hidden_states output_past pad_token_id prefix pretraining_tp
    problem_type resid_dropout resid_pdrop residual_dropout return_dict scale_attn_weights_dropout
    sep_token_id summary_activation summary_first_dropout summary_proj_to_labels summary_type
    summary_use_proj suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript
    transformers.js_config transformers_version trust_remote_code unsloth_fixed unsloth_version
    use_bfloat16 use_cache use_flash_attn use_flash_attention_2
    chunk_size_feed_forward
    bad_words_ids diversity_penalty early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores
    remove_invalid_values repetition_penalty return_dict_in_generate typical_p
    """.split()  # noqa: SIM905 - a list of names would fill two pages
)

# Settings that must be missing, null, false, 0 or empty, with the reason to give otherwise.
REFUSED = {
    "quantization_config": "its weights are quantised already; import the unquantised model",
    "compression_config": "its weights are compressed; import the uncompressed model",
    "is_encoder_decoder": "it is an encoder-decoder",
    "add_cross_attention": "it attends to an encoder",
    "alibi": "it has ALiBi positions",
    "num_experts": "it is a mixture of experts",
    "num_local_experts": "it is a mixture of experts",
    "n_routed_experts": "it is a mixture of experts",
    "moe_intermediate_size": "it is a mixture of experts",
    "clip_qkv": "it clips queries, keys and values",
    "kv_lora_rank": "it compresses keys and values (multi-head latent attention)",
    "pruned_heads": "some of its heads were removed",
    "use_bidirectional_attention": "its attention is not causal",
}


class SourceSettings:
    """Settings by name, with the place they come from for messages.

    `tensors` are the names of the weights, which may tell what no setting does. `notes` are
    sentences for the user about what the import left out or limited. A setting that is null counts
    as missing, except for `is_null`.
    """

    def __init__(
        self,
        values: dict[str, Any],
        where: str,
        housekeeping: Collection[str] = HOUSEKEEPING,
        refused: Mapping[str, str] = REFUSED,
        kind: str = "this family of models",
        tensors: Collection[str] = (),
    ) -> None:
        self.values, self.where, self.kind, self.tensors = values, where, kind, tensors
        self.notes: list[str] = []
        self._read: set[str] = set(housekeeping)
        for name, reason in refused.items():
            if values.get(name):
                raise self.error(f"{name} is {values[name]!r:.80}: {reason}")
            self._read.add(name)

    def error(self, what: str) -> CheckpointError:
        """Return an error about the settings; `what` completes the sentence."""
        return CheckpointError(f"{self.where}: {what}")

    def is_null(self, name: str) -> bool:
        """Return whether the setting is there and null, which for some means: none."""
        self._read.add(name)
        return name in self.values and self.values[name] is None

    def ignore(self, *names: str) -> None:
        """Mark settings as known and without influence on the logits."""
        self._read.update(names)

    def whole(self, *names: str, default: int | None = None) -> int:
        """Return a whole number of 1 or more, the first that is there of several names."""
        name, value = self._first(names)
        if value is None and default is not None:
            return default
        if type(value) is not int or value < 1:
            raise self._wrong(name, value, "a whole number of 1 or more")
        return value

    def number(self, *names: str, default: float | None = None) -> float:
        """Return a number, the first that is there of several names."""
        name, value = self._first(names)
        if value is None and default is not None:
            return float(default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(name, value, "a number")
        if not abs(value) <= sys.float_info.max:  # JSON may have NaN, infinities, and huge ones
            raise self._wrong(name, value, "a finite number")
        return float(value)

    def positive(self, *names: str, default: float | None = None) -> float:
        """Return a number greater than 0, the first that is there of several names."""
        value = self.number(*names, default=default)
        if value <= 0:
            raise self._wrong(*self._first(names), "a number greater than 0")
        return value

    def flag(self, *names: str, default: bool) -> bool:
        """Return a truth value, the first that is there of several names."""
        name, value = self._first(names)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def word(self, *names: str, default: str | None = None) -> str:
        """Return a text, the first that is there of several names."""
        name, value = self._first(names)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self._wrong(name, value, "a text")
        return value

    def listed(self, name: str) -> list[Any] | None:
        """Return a list, or None if there is none."""
        value = self._first((name,))[1]
        if value is not None and not isinstance(value, list):
            raise self._wrong(name, value, "a list")
        return value

    def table(self, name: str) -> dict[str, Any]:
        """Return a table of settings, empty if there is none."""
        value = self._first((name,))[1]
        if value is not None and not isinstance(value, dict):
            raise self._wrong(name, value, "a table")
        return dict(value or {})

    def must_be(self, name: str, *allowed: object, why: str) -> None:
        """Refuse a setting that is there and has another value than the `allowed` ones."""
        value = self._first((name,))[1]
        if value is not None and value not in allowed:
            raise self.error(f"{name} is {value!r:.80}: {why}")

    def finish(self) -> None:
        """Refuse the settings that nothing has read; null ones change nothing."""
        unknown = sorted(
            name
            for name, value in self.values.items()
            if value is not None and name not in self._read
        )
        if unknown:
            are = "settings {} are" if len(unknown) > 1 else "setting {} is"
            raise self.error(
                f"the {are.format(listed(unknown))} not known for {self.kind}, and may change what "
                f"it computes"
            )

    def _first(self, names: tuple[str, ...]) -> tuple[str, Any]:
        self._read.update(names)
        given = [name for name in names if self.values.get(name) is not None]
        if not given:
            return names[0], None
        name, value = given[0], self.values[given[0]]
        for other in given[1:]:
            if self.values[other] != value:
                raise self.error(f"{name} is {value!r:.80}, but {other} {self.values[other]!r:.80}")
        return name, value

    def _wrong(self, name: str, value: object, wanted: str) -> CheckpointError:
        if value is None:
            return self.error(f"the setting {name} is missing")
        return self.error(f"{name} is {value!r:.80}, which is not {wanted}")
