"""Print medians and ratios of a results file as Markdown: python peers/report.py FILE.json."""

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from contestants import EDGEGPT

__all__ = ["markdown", "tokens_per_second"]


def tokens_per_second(cell: dict, contestant: dict) -> list[float]:
    """Return one number per round."""
    return [cell["tokens"] / seconds for seconds in contestant["seconds"]]


def markdown(results: dict) -> str:
    """Return the whole report; ratios are taken within each round."""
    machine = results["machine"]
    gpus = "".join(f"{gpu}; " for gpu in machine.get("gpus", ()))
    processor = f"{machine['cpu']}, {machine['cores']} cores"
    with_sets = f"{processor} ({', '.join(machine['instruction_sets'])}), {machine['system']}"
    lines = [
        f"# edgegpt and its peers, {results['date']}",
        "",
        f"{gpus}{with_sets}; {results['threads']} threads, {results['repeats']} interleaved "
        "rounds, random weights. tokens/s: median (smallest-largest). Ratios to a peer: "
        "median (smallest-largest) of the ratios within each round; above 1 edgegpt is faster.",
    ]
    for cell in results["cells"]:
        lines += ["", *_cell(cell)]
    lines += ["", "## Versions", ""]
    lines += [f"- {name}: {version}" for name, version in sorted(results["versions"].items())]
    return "\n".join(lines) + "\n"


def _cell(cell: dict) -> Iterator[str]:
    yield f"## {cell['model']}, {cell['bits']} bits: {cell['title']}"
    yield ""
    own = [one for one in cell["contestants"] if one["peer"] == EDGEGPT]
    titles = [f"{one['label']} / peer" for one in own]
    yield f"| {' | '.join(['peer', 'tokens/s', *titles, 'same ids'])} |"
    yield "|---" * (3 + len(own)) + "|"
    ranked = sorted(cell["contestants"], key=lambda one: statistics.median(one["seconds"]))
    for one in ranked:
        speed = tokens_per_second(cell, one)
        ratios = ["-" if mine is one else _ratio(cell, mine, one) for mine in own]
        same = _agreement(own[0]["ids"], one["ids"]) if own and one is not own[0] else "-"
        yield f"| {' | '.join([one['label'], _spread(speed, '{:.0f}'), *ratios, same])} |"
    for name, reason in cell["absent"].items():
        yield f"| {name} | absent: {reason} |{' - |' * (1 + len(own))}"


def _ratio(cell: dict, ours: dict, theirs: dict) -> str:
    speeds = tokens_per_second(cell, ours), tokens_per_second(cell, theirs)
    # A cell that was broken off may have one round less of some.
    return _spread([mine / other for mine, other in zip(*speeds, strict=False)], "{:.2f}")


def _agreement(ours: list[int], theirs: list[int]) -> str:
    pairs = enumerate(zip(ours, theirs, strict=True))
    first_other = next((at for at, (mine, other) in pairs if mine != other), len(ours))
    return f"{first_other} of {len(ours)}"


def _spread(values: list[float], form: str) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{form.format(middle)} ({form.format(low)}-{form.format(high)})"


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())), end="")
