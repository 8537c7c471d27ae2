"""Which peers compete at which number of bits, in which formats, and why some do not."""

from dataclasses import dataclass

from shapes import Shape

__all__ = ["BITS", "EDGEGPT", "PEERS", "Contestant", "contestants"]

BITS = (32, 8, 4)
EDGEGPT = "edgegpt"


@dataclass(frozen=True)
class Contestant:
    """One peer with one format of one model; `folder` is where make_models.py puts the format."""

    peer: str
    format: str
    folder: str

    @property
    def label(self) -> str:
        """Name in the tables."""
        return f"{self.peer} {self.format}"


# peer -> bits -> formats (name, folder), or the reason why there is none.
_FORMATS: dict[str, dict[int, list[tuple[str, str]] | str]] = {
    EDGEGPT: {
        32: [("float32", "float32")],
        8: [("int8", "int8")],
        4: [("int4", "int4")],
    },
    "transformers": {
        32: [("float32", "float32")],
        8: "eager PyTorch has no int8 weights on a CPU without an add-on",
        4: "eager PyTorch has no int4 weights on a CPU without an add-on",
    },
    "genai": {
        32: [("float32", "float32")],
        8: [("int8", "int8")],
        4: [("int4", "int4")],
    },
    "llama_cpp": {
        32: [("F32", "F32")],
        8: [("Q8_0", "Q8_0")],
        4: [("Q4_0", "Q4_0"), ("Q4_K_M", "Q4_K_M")],
    },
    "ctranslate2": {
        32: [("float32", "float32")],
        8: [("int8", "int8")],
        4: "its 4-bit formats (AWQ) run on a GPU only",
    },
    # bf16 is what OpenVINO computes in by default on a CPU that has it, whatever the weights are.
    "openvino": {
        32: [("float32", "float32"), ("bf16", "float32")],
        8: [("int8", "int8")],
        4: [("int4", "int4")],
    },
}

PEERS = tuple(_FORMATS)


def contestants(shape: Shape, bits: int, peers: list[str]) -> tuple[list[Contestant], dict]:
    """Return who competes in a cell, and for each peer that does not, why."""
    present: list[Contestant] = []
    absent: dict[str, str] = {}
    for peer in peers:
        formats = _FORMATS[peer][bits]
        if isinstance(formats, str):
            absent[peer] = formats
        elif peer == "genai" and shape.family == "gpt2":
            absent[peer] = "its model builder does not know the GPT-2 architecture"
        else:
            present += [Contestant(peer, name, folder) for name, folder in formats]
    return present, absent
