"""The peers that compete at each number of bits, their formats, and why some do not compete."""

from dataclasses import dataclass

from shapes import Shape

__all__ = ["BITS", "DEVICES", "EDGEGPT", "ONE_ROW", "PEERS", "Contestant", "contestants"]

BITS = (32, 16, 8, 4)
EDGEGPT = "edgegpt"


@dataclass(frozen=True)
class Contestant:
    """One peer with one format of one model; make_models.py writes the format to `folder`."""

    peer: str
    format: str
    folder: str

    @property
    def label(self) -> str:
        """Name in the tables."""
        return f"{self.peer} {self.format}"


# peer -> bits -> formats (name, folder), or the reason why the peer has none.
_Formats = dict[str, dict[int, list[tuple[str, str]] | str]]

NO_HALF = "16 bits are measured on GPUs alone"
WITH_ENCODERS = (EDGEGPT, "transformers", "ctranslate2")
NO_GPT2 = {
    "genai": "its model builder does not know the GPT-2 architecture",
    "genai_cuda": "its model builder does not know the GPT-2 architecture",
    "executorch": "its exporter of language models does not know the GPT-2 architecture",
    "litert_lm": "not tried; the conversion here is for the Llama layout",
}
# These take part in the measurements of one row only.
ONE_ROW = {
    "executorch": "its exporter makes programs for one row",
    "litert_lm": "a session of its engine has one row",
}

_CPU: _Formats = {
    EDGEGPT: {
        32: [("float32", "float32"), ("float32 native", "float32")],
        16: [("bfloat16 native", "bfloat16")],
        8: [("int8", "int8"), ("int8 native", "int8")],
        4: [("int4", "int4"), ("int4 native", "int4")],
    },
    "transformers": {
        32: [("float32", "float32")],
        16: NO_HALF,
        8: "eager PyTorch has no int8 weights on a CPU without an add-on",
        4: "eager PyTorch has no int4 weights on a CPU without an add-on",
    },
    "genai": {
        32: [("float32", "float32")],
        16: NO_HALF,
        8: [("int8", "int8")],
        4: [("int4", "int4")],
    },
    "llama_cpp": {
        32: [("F32", "F32")],
        16: NO_HALF,
        8: [("Q8_0", "Q8_0")],
        4: [("Q4_0", "Q4_0"), ("Q4_K_M", "Q4_K_M")],
    },
    "ctranslate2": {
        32: [("float32", "float32")],
        16: NO_HALF,
        8: [("int8", "int8")],
        4: "its 4-bit formats (AWQ) run on a GPU only",
    },
    # OpenVINO computes in bf16 by default on a CPU that has it, whatever the type of the weights.
    "openvino": {
        32: [("float32", "float32")],
        16: [("bf16", "float32")],
        8: [("int8", "int8")],
        4: [("int4", "int4")],
    },
    "executorch": {
        32: [("float32", "float32")],
        16: NO_HALF,
        8: [("int8", "int8")],
        4: [("int4", "int4")],
    },
    "litert_lm": {
        32: [("float32", "float32")],
        16: NO_HALF,
        8: [("int8", "int8")],
        4: [("int4 b32", "int4-b32"), ("int4 rows", "int4-rows")],
    },
}

# The second word of edgegpt's formats, as "native" is on a CPU. Ratios are relative to the first of
# these that is present.
BACKENDS = ("cuda", "tensorrt", "tensorrt-rtx")
_CUDA: _Formats = {
    EDGEGPT: {
        bits: [(f"{precision} {backend}", precision) for backend in BACKENDS]
        for bits, precision in {32: "float32", 16: "float16", 8: "int8", 4: "int4"}.items()
    },
    "torch_compile": {
        32: [("float32", "float32")],
        16: [("float16", "float32")],  # rounded at load time
        8: "PyTorch has no int8 weights on a GPU without an add-on",
        4: "PyTorch has no int4 weights on a GPU without an add-on",
    },
    "genai_cuda": {
        bits: [(name, name), (f"{name} graphs", name)]
        for bits, name in {32: "float32", 16: "float16", 8: "int8", 4: "int4"}.items()
    },
}

DEVICES = {"cpu": _CPU, "cuda": _CUDA}
PEERS = (*_CPU, *(peer for peer in _CUDA if peer not in _CPU))


def contestants(
    shape: Shape, bits: int, peers: list[str], device: str
) -> tuple[list[Contestant], dict]:
    """Return the contestants of a cell, and the reason for each peer that does not compete."""
    present: list[Contestant] = []
    absent: dict[str, str] = {}
    for peer, by_bits in DEVICES[device].items():
        formats = by_bits[bits]
        if peer not in peers:
            continue
        if isinstance(formats, str):
            absent[peer] = formats
        elif shape.pairs and peer not in WITH_ENCODERS:
            absent[peer] = "it does not run this encoder-decoder"
        elif shape.family == "gpt2" and peer in NO_GPT2:
            absent[peer] = NO_GPT2[peer]
        else:
            present += [Contestant(peer, name, folder) for name, folder in formats]
    return present, absent
