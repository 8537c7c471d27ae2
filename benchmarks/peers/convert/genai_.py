"""Build a GenAI model folder for the CPU: python convert/genai_.py HF OUT FORMAT.

Quantised formats use round to nearest in blocks of 32 with int8 activations (accuracy level 4), the
fastest that the builder offers. The head computes the last position only.
"""

import subprocess
import sys
import tempfile

PRECISIONS = {"float32": "fp32", "float16": "fp16", "int8": "int8", "int4": "int4"}


def build(device: str) -> int:
    """Run the builder for "cpu" or "cuda" with the command line's arguments; return its code."""
    checkpoint, out, format_name = sys.argv[1:]
    options = ["prune_lm_head=true"]
    if format_name.startswith("int"):
        options += ["block_size=32", "accuracy_level=4", "algo_config=rtn"]
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        command += ["-i", checkpoint, "-o", out, "-p", PRECISIONS[format_name]]
        command += ["-e", device, "-c", cache, "--extra_options", *options]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(build("cpu"))
