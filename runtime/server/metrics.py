"""What the server counts, in Prometheus's text format (0.0.4)."""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from ..generation.scheduler import Scheduler
from ..generation.tickets import Ticket

__all__ = ["Metrics"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class _Histogram:
    """How many values were at most each of some bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        found, sum_so_far = [f"# TYPE {name} histogram"], 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            sum_so_far += count
            found.append(f'{name}_bucket{{le="{bound}"}} {sum_so_far}')
        return [*found, f"{name}_sum {self.total:.6f}", f"{name}_count {sum_so_far}"]


class Metrics:
    """Counts of what has ended, and the state of the scheduler when it is asked for."""

    def __init__(self) -> None:
        self.first, self.later = _Histogram(SECONDS), _Histogram(SECONDS)
        self.ends: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter(prompt=0, reused=0, new=0)
        self._lock = threading.Lock()

    def note(self, tickets: Sequence[Ticket], *, left: bool) -> None:
        """Count texts that have ended; `left`: because their reader did."""
        with self._lock:
            for ticket in tickets:
                text, writing = ticket.text, ticket.writing
                new = len(text.new_ids)
                self.ends["cancelled" if left else ticket.ending] += 1
                self.tokens["prompt"] += text.prompt_length - ticket.reused
                self.tokens["reused"] += ticket.reused
                self.tokens["new"] += new
                if new:
                    self.first.add(writing.first_s)
                if new > 1:
                    self.later.add((writing.last_s - writing.first_s) / (new - 1))

    def text(self, scheduler: Scheduler) -> str:
        """Return all of it."""
        with self._lock:
            lines = [
                "# TYPE edgegpt_rows gauge",
                f"edgegpt_rows {scheduler.rows}",
                "# TYPE edgegpt_rows_running gauge",
                f"edgegpt_rows_running {scheduler.running}",
                "# TYPE edgegpt_requests_waiting gauge",
                f"edgegpt_requests_waiting {scheduler.waiting}",
                "# TYPE edgegpt_tokens_total counter",
                *(f'edgegpt_tokens_total{{kind="{k}"}} {n}' for k, n in self.tokens.items()),
                "# TYPE edgegpt_texts_total counter",
                *(f'edgegpt_texts_total{{end="{k}"}} {n}' for k, n in sorted(self.ends.items())),
                *self.first.lines("edgegpt_time_to_first_token_seconds"),
                *self.later.lines("edgegpt_time_per_output_token_seconds"),
            ]
        return "\n".join(lines) + "\n"
