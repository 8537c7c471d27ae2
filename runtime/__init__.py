"""The torch-free runtime: opens a bundle, generates from it, and verifies it.

Needs numpy, tokenizers, safetensors and one inference engine; never PyTorch, never onnx. Its public
face is `edgegpt.load`.

It prints nothing. Each module logs to its own child of the logger "edgegpt": at INFO what happens
once in a while, such as an engine that is chosen, opened, built, or taken; at DEBUG what happens
once a generation, such as its cache. A step of decoding logs nothing. A program that wants to see
it says so:

    logging.basicConfig()
    logging.getLogger("edgegpt").setLevel(logging.INFO)

On the command line, `edgegpt -v` and a command's name show INFO, `edgegpt -vv` DEBUG, too.
"""

import logging
import os

__all__ = ()

# Nothing leaves the device. ONNX Runtime sends telemetry from 1.29 on; it looks at this variable
# once, when it is imported, wherever in the program that is.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Without any handler, logging itself would print warnings in a program that asked for nothing.
logging.getLogger("edgegpt").addHandler(logging.NullHandler())
