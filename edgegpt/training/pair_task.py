"""Learn to make one text from another: translation, summarisation, whatever the pairs are."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from edgegpt.runtime.bundle.bundle import SOURCE_TOKENIZER_NAME, TOKENIZER_NAME
from edgegpt.runtime.bundle.usage import SourceUsage, Usage
from edgegpt.runtime.files import write_file
from edgegpt.runtime.quantity import quantity
from edgegpt.runtime.text.pairs import Pair, PairFile
from edgegpt.runtime.text.translation_scores import translation_scores

from ..checkpoint import PAIRS_NAME, Checkpoint, save_config
from ..errors import InvalidInputError
from ..model import Seq2Seq, Seq2SeqConfig
from .config import TrainConfig
from .distributed import Processes
from .need import Load
from .pair_batches import IGNORED, PairBatches, encode_pairs, longest_pair
from .subword_tokenizer import END, PAD, START, build_subword_tokenizer, read_tokenizer
from .task import Batch
from .translate import translate

__all__ = ["PairTask", "seq2seq_config"]

HELD_OUT_PAIRS = 2000  # that a checkpoint brings along, for the proof and for scores
SCORED = 256  # of them are translated at each evaluation
SHOWN = 3  # translations in a sample
# Pairs of about one length make a part of a step's batch, so that little of it is padding. If all
# of a step were of one length, a model would learn what fits the length of the last step: on
# numbers, which are made of hundreds, a quarter of the answers was wrong by a place.
PARTS = 8


def seq2seq_config(
    model: dict[str, Any], changes: dict[str, Any], shared: bool | None
) -> Seq2SeqConfig:
    """Return the settings of a preset, or of an earlier run, with changes to both stacks.

    `shared` tells whether both sides have one vocabulary; None: as before, else yes.
    """
    if "encoder" in model:
        stacks = {name: model[name] | changes for name in ("encoder", "decoder")}
        shared = model["shared_embedding"] if shared is None else shared
    else:
        settings = model | changes
        # Vaswani et al. 2017, section 3.4
        settings = {"embedding_scale": math.sqrt(settings["n_embd"])} | settings
        stacks = {"encoder": settings, "decoder": settings}
    return Seq2SeqConfig.from_dict({**stacks, "shared_embedding": shared is not False})


@dataclass(frozen=True)
class Tokenizers:
    """One tokenizer for both sides, or two."""

    source: Tokenizer
    target: Tokenizer

    @classmethod
    def learnt(cls, pairs: Sequence[Pair], config: Seq2SeqConfig) -> "Tokenizers":
        """Learn them; the sizes of the vocabularies in `config` are the largest they may have."""
        sources, targets = zip(*pairs, strict=True)
        size = config.decoder.vocab_size
        if config.shared_embedding:
            both = build_subword_tokenizer([*sources, *targets], size)
            return cls(both, both)
        return cls(
            build_subword_tokenizer(sources, config.encoder.vocab_size),
            build_subword_tokenizer(targets, size),
        )

    @classmethod
    def read(cls, folder: Path, shared: bool) -> "Tokenizers":
        """Read those that `PairTask.write_files` wrote."""
        target = read_tokenizer(folder / TOKENIZER_NAME)
        return cls(target if shared else read_tokenizer(folder / SOURCE_TOKENIZER_NAME), target)

    def sized(self, config: Seq2SeqConfig) -> Seq2SeqConfig:
        """Return the settings with the sizes that the vocabularies came to."""
        source, target = self.source.get_vocab_size(), self.target.get_vocab_size()
        return replace(
            config,
            encoder=replace(config.encoder, vocab_size=source),
            decoder=replace(config.decoder, vocab_size=target),
        )


class PairTask:
    """An encoder-decoder and two sets of pairs; see `Task`."""

    size_option = "batch_tokens"

    def __init__(
        self,
        model_config: Seq2SeqConfig,
        config: TrainConfig,
        file: PairFile,
        train: list[Pair],
        validation: list[Pair],
        group: Processes,
        earlier: Path | None = None,
    ) -> None:
        """Learn the tokenizers from all pairs, so that no character is unknown; build the model.

        If the folder `earlier` holds the run that goes on, its tokenizers are taken.
        """
        translation_scores(["0"], ["0"])  # refused before the work, where there is no sacrebleu
        self.config, self.group = config, group
        self.corpus, self.sha256 = file.name, file.sha256
        shared = model_config.shared_embedding
        self.tokenizers = (
            Tokenizers.learnt([*train, *validation], model_config)
            if earlier is None
            else Tokenizers.read(earlier, shared)
        )
        self.model_config = self.tokenizers.sized(model_config)
        self.model_settings = self.model_config.to_dict()
        self.held_out = validation
        sides = (self.tokenizers.source, self.tokenizers.target)
        longest = (model_config.encoder.block_size, model_config.decoder.block_size)
        self.train_pairs = encode_pairs(*sides, train, *longest)
        self.validation_pairs = encode_pairs(*sides, validation, *longest)
        self._check_room()
        self.all_batches = PairBatches(
            self.train_pairs, config.batch_tokens // PARTS, config.seed, group.rank, group.world
        )
        torch.manual_seed(config.seed)
        self.model = Seq2Seq(self.model_config).to(group.device)

    def _check_room(self) -> None:
        """Refuse batches without room for the longest pair."""
        tokens, needed = self.config.batch_tokens, longest_pair(self.train_pairs)
        if tokens // PARTS < needed:
            raise InvalidInputError(
                f"batch_tokens is {tokens}; a step has {PARTS} parts, and the longest pair needs "
                f"{needed} tokens: give at least {PARTS * needed}"
            )

    def facts(self) -> str:
        """Return how many pairs there are, how large the vocabulary is, and what is left out."""
        encoder, decoder = self.model_config.encoder, self.model_config.decoder
        ids = f"{decoder.vocab_size:,} ids"
        if not self.model_config.shared_embedding:
            ids = f"{encoder.vocab_size:,} and {ids}"
        left = self.train_pairs.left_out + self.validation_pairs.left_out
        batches = PARTS * self.config.gradient_accumulation_steps
        too_long = (
            f"; {quantity(left, 'pair is', 'pairs are')} too long for the model and left out"
            if left
            else ""
        )
        return (
            f"{len(self.train_pairs.sources):,} training and "
            f"{len(self.validation_pairs.sources):,} validation pairs, {ids}, "
            f"{self.all_batches.steps_per_epoch / batches:,.0f} steps an epoch{too_long}"
        )

    def batches(self, step: int) -> list[Batch]:
        """Return this process's batches of a step, each in parts of different lengths."""
        count = self.config.gradient_accumulation_steps
        return [
            tuple(
                self.all_batches.batch((batch - 1) * PARTS + part) for part in range(1, PARTS + 1)
            )
            for batch in range((step - 1) * count + 1, step * count + 1)
        ]

    def sliver(self, batch: Batch, share: float) -> Batch:
        """Return the first of the parts, one at least."""
        return batch[: max(1, round(share * len(batch)))]

    @property
    def loads(self) -> list[Load]:
        """About half of the tokens are of sources, the others of targets."""
        config, half = self.model_config, self.config.batch_tokens // 2
        return [Load(config.encoder, half, has_head=False), Load(config.decoder, half)]

    def validation(self) -> Iterator[Batch]:
        """Yield the validation pairs, by length."""
        batches = PairBatches(self.validation_pairs, self.config.batch_tokens, self.config.seed)
        return ((batch,) for batch in batches.in_order())

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy in nats; in training with smoothed labels.

        Szegedy et al. 2016, section 7; Vaswani et al. 2017, section 5.4.
        """
        total = torch.zeros((), device=self.group.device)
        for part in batch:
            source, source_len, target_in, target_out = (
                tensor.to(self.group.device)
                for tensor in (part.source, part.source_len, part.target_in, part.target_out)
            )
            logits = model(source, source_len, target_in)  # (B, T, V)
            total = total + F.cross_entropy(
                logits.float().flatten(0, 1),
                target_out.flatten(),
                ignore_index=IGNORED,
                label_smoothing=self.config.label_smoothing if model.training else 0.0,
                reduction="sum",
            )
        return total / self.predicted(batch)

    def predicted(self, batch: Batch) -> int:
        """Return the number of tokens of the targets, their ends included."""
        return sum(int((part.target_out != IGNORED).sum()) for part in batch)

    def scores(self) -> dict[str, float]:
        """Return exact match, BLEU and chrF of greedy translations of some validation pairs."""
        pairs = self.held_out[:SCORED]
        found = translation_scores(
            self._translated([source for source, _ in pairs]), [target for _, target in pairs]
        )
        return {"exact_match": found.exact_match, "bleu": found.bleu, "chrf": found.chrf}

    def sample(self) -> str:
        """Return a few translations of validation sources."""
        if not self.config.sample_tokens:
            return ""
        sources = [source for source, _ in self.held_out[:SHOWN]]
        found = zip(sources, self._translated(sources), strict=True)
        return "\n".join(f"{source} -> {target}" for source, target in found)

    def _translated(self, sources: list[str]) -> list[str]:
        return translate(self.model, self.tokenizers.source, self.tokenizers.target, sources)

    def write_files(self, out: Path) -> None:
        """Write the settings, the tokenizers and the first of the validation pairs."""
        usage = Usage((START,), (END,), PAD, source=SourceUsage(suffix_ids=(END,)))
        save_config(out, self.model_config, usage)
        write_file(out / TOKENIZER_NAME, self.tokenizers.target.to_str(pretty=True).encode())
        if not self.model_config.shared_embedding:
            text = self.tokenizers.source.to_str(pretty=True)
            write_file(out / SOURCE_TOKENIZER_NAME, text.encode())
        lines = ["\t".join(pair) + "\n" for pair in islice(self.held_out, HELD_OUT_PAIRS)]
        write_file(out / PAIRS_NAME, "".join(lines).encode())

    def take_weights(self, origin: Checkpoint, folder: Path) -> None:
        """Refuse: only runs on a text begin from another one's weights."""
        raise InvalidInputError(f"a run on pairs cannot begin with the weights of {folder}")
