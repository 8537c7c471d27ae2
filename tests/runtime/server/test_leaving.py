"""Clients leave at any moment: their rows and places are free a turn later."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from http_servers import SOON, serving, until

import edgegpt
from edgegpt import LanguageModel
from edgegpt.runtime.generation import shared_rows
from edgegpt.runtime.generation.scheduler import Scheduler
from edgegpt.runtime.generation.tickets import Ticket

PROMPT = "The wind was up before the sun,"  # 31 of the context's 32 tokens
ENOUGH = 5  # clients that left in each stage


@pytest.fixture(scope="module")
def model(small_bundle: Path) -> Iterator[LanguageModel]:
    with edgegpt.load(small_bundle, "cpu", threads=1) as opened:
        yield opened


class Turns:
    """Counts turns, and notes in which stage texts were left, and how many turns later they ended.

    The number of turns is that of turns that began after the client had left.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.begun, self.late = 0, []
        self.left: dict[Ticket, tuple[str, int]] = {}
        turn, cancel, end = Scheduler._turn, Ticket.cancel, Ticket.end

        def counted(scheduler: Scheduler) -> None:
            self.begun += 1
            time.sleep(0.002)  # a stage lasts long enough to be left in
            turn(scheduler)

        def noted(ticket: Ticket) -> None:
            if not ticket.ended:
                self.left.setdefault(ticket, (self.stage(ticket), self.begun))
            cancel(ticket)

        def ended(ticket: Ticket, *error: object) -> None:
            if ticket in self.left:
                self.late.append(self.begun - self.left[ticket][1])
            end(ticket, *error)

        patch.setattr(Scheduler, "_turn", counted)
        patch.setattr(Ticket, "cancel", noted)
        patch.setattr(Ticket, "end", ended)

    def stage(self, ticket: Ticket) -> str:
        """Return where a text is."""
        if ticket.text.new_ids:
            return "written"
        rows = self.scheduler._shared.rows
        return "fed" if any(row.text is ticket.text for row in rows) else "waiting"

    @property
    def stages(self) -> Counter[str]:
        """How many left in each stage."""
        return Counter(stage for stage, _ in self.left.values())


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_at_any_moment_frees_the_row_a_turn_later(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(shared_rows, "PIECE", 8)
    monkeypatch.setattr(shared_rows, "SHORT_REST", 0)
    turns, chance = Turns(monkeypatch), random.Random(1)
    body = {"prompt": PROMPT, "max_tokens": 20000, "stream": stream}
    stays = {"prompt": PROMPT, "max_tokens": 10, "seed": 4, "temperature": 0.9}
    expected = model.generate(PROMPT, max_new_tokens=10, seed=4, temperature=0.9).text
    with serving(model, rows=3) as served, ThreadPoolExecutor(10) as clients:
        turns.scheduler = served.service.scheduler

        def leaves(number: int) -> None:
            client = served.posted(body | {"prompt": PROMPT[number % 7 :]})
            time.sleep(10 ** chance.uniform(-3, -0.3))
            client.close()

        end, asked = time.monotonic() + SOON, 0
        while min(turns.stages[stage] for stage in ("waiting", "fed", "written")) < ENOUGH:
            assert time.monotonic() < end, turns.stages
            left = [clients.submit(leaves, number) for number in range(asked, asked + 20)]
            texts = [clients.submit(served.ask, "/v1/completions", stays) for _ in range(2)]
            for text in texts:
                assert text.result()[1]["choices"][0]["text"] == expected
            for one in left:
                one.result()
            asked += 20
        until(lambda: served.idle)
        until(lambda: served.service.metrics.ends["cancelled"] == asked)
    assert len(turns.late) == len(turns.left)
    assert max(turns.late) <= 1
