"""Export a Hugging Face checkpoint with edgegpt: python convert/edgegpt_.py HF OUT FORMAT SHAPE."""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from shapes import SHAPES

ANY_LOSS = "1e9"  # the quality of random weights means nothing, so the gate lets all pass

if __name__ == "__main__":
    source, out, format_name, shape = sys.argv[1:]
    command = [sys.executable, "-m", "edgegpt", "export", source, "--out", out, "--force"]
    command += ["--precision", format_name]
    command += ["--context", str(SHAPES[shape].context)]
    if format_name.startswith("int"):
        command += ["--method", "rtn", "--max-kl", ANY_LOSS]
    sys.exit(subprocess.run(command, check=False).returncode)
