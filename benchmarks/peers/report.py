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
    """Return the whole report; ratios are edgegpt / peer, taken within each round."""
    machine = results["machine"]
    gpus = "".join(f"{gpu}; " for gpu in machine.get("gpus", ()))
    processor = f"{machine['cpu']}, {machine['cores']} cores"
    with_sets = f"{processor} ({', '.join(machine['instruction_sets'])}), {machine['system']}"
    lines = [
        f"# edgegpt and its peers, {results['date']}",
        "",
        f"{gpus}{with_sets}; {results['threads']} threads, {results['repeats']} interleaved "
        "rounds, random weights. tokens/s: median (smallest-largest). Ratio: edgegpt / peer, "
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
    yield "| peer | tokens/s | edgegpt / peer | same ids |"
    yield "|---|---|---|---|"
    ours = next((one for one in cell["contestants"] if one["peer"] == EDGEGPT), None)
    own_speed = tokens_per_second(cell, ours) if ours else []
    ranked = sorted(cell["contestants"], key=lambda one: statistics.median(one["seconds"]))
    for one in ranked:
        speed = tokens_per_second(cell, one)
        if own_speed and one is not ours:
            # A cell that was broken off may have one round less of some.
            ratios = [mine / theirs for mine, theirs in zip(own_speed, speed, strict=False)]
            ratio, same = _spread(ratios, "{:.2f}"), _agreement(ours["ids"], one["ids"])
        else:
            ratio = same = "-"
        yield f"| {one['label']} | {_spread(speed, '{:.0f}')} | {ratio} | {same} |"
    for name, reason in cell["absent"].items():
        yield f"| {name} | absent: {reason} | - | - |"


def _agreement(ours: list[int], theirs: list[int]) -> str:
    pairs = enumerate(zip(ours, theirs, strict=True))
    first_other = next((at for at, (mine, other) in pairs if mine != other), len(ours))
    return f"{first_other} of {len(ours)}"


def _spread(values: list[float], form: str) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{form.format(middle)} ({form.format(low)}-{form.format(high)})"


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())), end="")
