"""Format numbers and messages so that they fit one line."""

import re
from collections.abc import Iterable

__all__ = ["dotted", "first_sentence", "gigabytes", "session_trouble"]

LONGEST = 140
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
CUDA_FAILURE = re.compile(r"CUDA failure \d+: [^;\n]+")
ONNXRUNTIME_ERROR = re.compile(r".*\[ONNXRuntimeError\] : \d+ : \w+ : ")
# Messages of ONNX Runtime that follow from a failed provider and do not say why it failed. They
# appear because the trial forbids the fallback to the CPU.
CONSEQUENCES = ("explicitly disabled", "Conflicting session configuration", "*****", "Falling back")


def gigabytes(size: int) -> str:
    """Format a number of bytes as 23.7 GB; below 1 GB, in MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def dotted(version: Iterable[int]) -> str:
    """Format a version: (8, 9) as 8.9."""
    return ".".join(map(str, version))


def first_sentence(text: str) -> str:
    """Return the first line that is not blank, without colours, cut if it is long."""
    lines = [line.strip() for line in COLOURS.sub("", text).splitlines() if line.strip()]
    line = lines[0] if lines else "no reason given"
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."


def session_trouble(text: str) -> str:
    """Return the reason why ONNX Runtime made no session, found in its output."""
    failure = CUDA_FAILURE.search(text)
    if failure:
        return failure[0].strip()
    lines = [line for line in text.splitlines() if not any(said in line for said in CONSEQUENCES)]
    return first_sentence("\n".join(ONNXRUNTIME_ERROR.sub("", line) for line in lines))
