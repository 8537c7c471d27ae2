"""Build a GenAI model folder: python convert/genai_.py HF OUT FORMAT.

Quantised formats are round to nearest in blocks of 32 with int8 activations (accuracy level 4),
the fastest the builder offers; the head computes the last position only.
"""

import subprocess
import sys
import tempfile

PRECISIONS = {"float32": "fp32", "int8": "int8", "int4": "int4"}

if __name__ == "__main__":
    checkpoint, out, format_name = sys.argv[1:]
    options = ["prune_lm_head=true"]
    if format_name != "float32":
        options += ["block_size=32", "accuracy_level=4", "algo_config=rtn"]
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        command += ["-i", checkpoint, "-o", out, "-p", PRECISIONS[format_name]]
        command += ["-e", "cpu", "-c", cache, "--extra_options", *options]
        sys.exit(subprocess.run(command, check=False).returncode)
