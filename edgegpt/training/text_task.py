"""Learn to continue a text, character by character."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from edgegpt.runtime.files import write_file

from ..checkpoint import HELD_OUT_CHARACTERS, Checkpoint, check_state, save_config
from ..errors import InvalidInputError
from ..model import GPT, GPTConfig
from .char_tokenizer import build_char_tokenizer, encode_corpus
from .config import TrainConfig
from .data import Corpus, random_batch, split, windows
from .distributed import Processes
from .log import write_sample
from .need import Load
from .task import Batch

__all__ = ["TextTask"]


class TextTask:
    """A GPT and the two parts of a corpus; see `Task`."""

    size_option = "batch_size"

    def __init__(
        self, model_config: GPTConfig, config: TrainConfig, text: Corpus, group: Processes
    ) -> None:
        """Build the tokenizer and the model. The characters of the text are the vocabulary."""
        self.config, self.group, self.text = config, group, text
        self.corpus, self.sha256 = text.name, text.sha256
        self.tokenizer: Tokenizer = build_char_tokenizer(text.text)
        self.model_config = replace(model_config, vocab_size=self.tokenizer.get_vocab_size())
        self.model_settings = self.model_config.to_dict()
        ids = encode_corpus(self.tokenizer, text.text)
        self.train_ids, self.validation_ids = split(ids, model_config.block_size)
        torch.manual_seed(config.seed)
        self.model = GPT(self.model_config).to(group.device)

    def facts(self) -> str:
        """Return how long the two parts are."""
        return (
            f"{len(self.train_ids):,} training and {len(self.validation_ids):,} validation tokens, "
            f"{self.model_config.vocab_size} distinct"
        )

    def batches(self, step: int) -> list[Batch]:
        """Return inputs and targets, int64 [batch_size, block_size], for each batch."""
        config, group, rows = self.config, self.group, self.config.batch_size
        count = config.gradient_accumulation_steps
        total = rows * count * group.world
        block = self.model_config.block_size
        inputs, targets = random_batch(self.train_ids, block, total, config.seed, step)
        mine = range(count * group.rank, count * (group.rank + 1))
        slices = [slice(rows * number, rows * (number + 1)) for number in mine]
        return [(inputs[rows], targets[rows]) for rows in slices]

    def sliver(self, batch: Batch, share: float) -> Batch:
        """Return the first of the sequences, one at least."""
        rows = max(1, round(share * self.config.batch_size))
        return tuple(part[:rows] for part in batch)

    @property
    def loads(self) -> list[Load]:
        """The only stack reads all tokens."""
        return [Load(self.model_config, self.config.batch_size * self.model_config.block_size)]

    def validation(self) -> Iterator[Batch]:
        """Yield inputs and targets of the validation windows."""
        block, rows = self.model_config.block_size, self.config.batch_size
        return windows(self.validation_ids, block, rows, self.config.eval_windows)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy in nats."""
        inputs, targets = (part.to(self.group.device) for part in batch)
        logits = model(inputs)  # (B, T, V)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    def predicted(self, batch: Batch) -> int:
        """Return the number of targets."""
        return int(batch[1].numel())

    def scores(self) -> dict[str, float]:
        """Return no further measures."""
        return {}

    def sample(self) -> str:
        """Return a text that the model writes."""
        count = self.config.sample_tokens
        return write_sample(self.model, self.tokenizer, count, self.config.seed) if count else ""

    def write_files(self, out: Path) -> None:
        """Write the settings, the tokenizer and the beginning of the validation text."""
        save_config(out, self.model_config)
        write_file(out / "tokenizer.json", self.tokenizer.to_str(pretty=True).encode())
        held_out = self.text.text[len(self.train_ids) :][:HELD_OUT_CHARACTERS]
        write_file(out / "held_out.txt", held_out.encode())

    def take_weights(self, origin: Checkpoint, folder: Path) -> None:
        """Start from another run's weights; it must have the same vocabulary."""
        if origin.tokenizer_json is None:
            raise InvalidInputError(f"{folder} has no tokenizer.json: what its ids mean is unknown")
        known = Tokenizer.from_str(origin.tokenizer_json).get_vocab()
        if known != self.tokenizer.get_vocab():
            raise InvalidInputError(
                f"{folder} has another vocabulary than {self.corpus}: a run that begins from "
                f"it needs a text of exactly its {len(known)} characters"
            )
        check_state(origin.model.state_dict(), self.model.state_dict(), folder)
        self.model.load_state_dict(origin.model.state_dict())
