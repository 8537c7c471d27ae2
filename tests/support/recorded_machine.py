"""Recorded machines: a probe for `edgegpt doctor` that answers from a JSON file."""

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgegpt.runtime.doctor.probe import Ran

MACHINES = Path(__file__).parents[1] / "runtime" / "doctor" / "machines"


class RecordedMachine:
    """Answers as the real machine did; `facts` is the file's content and may be changed."""

    def __init__(self, name: str) -> None:
        self.facts: dict[str, Any] = json.loads((MACHINES / f"{name}.json").read_text())

    def platform(self) -> dict[str, str]:
        return self.facts["platform"]

    def memory(self) -> tuple[int, int]:
        total, free = self.facts["memory"]
        return total, free

    def distributions(self) -> dict[str, str]:
        return self.facts["distributions"]

    def environment(self, name: str) -> str:
        return self.facts["environment"].get(name, "")

    def read(self, path: str) -> str | None:
        lines = self.facts["files"].get(path)
        return None if lines is None else "\n".join(lines) + "\n"

    def glob(self, pattern: str) -> list[str]:
        return [path for path in self.facts["paths"] if fnmatch.fnmatchcase(path, pattern)]

    def run(self, command: Sequence[str], seconds: float) -> Ran | None:
        answer = self.facts["programs"].get(command[0])
        return None if answer is None else _ran(answer)

    def trial(self, *arguments: str) -> Ran:
        return _ran(self.facts["trials"][" ".join(arguments)])


def _ran(answer: dict[str, Any]) -> Ran:
    return Ran(answer["code"], "\n".join(answer["out"]), "\n".join(answer["err"]))
