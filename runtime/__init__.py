"""The torch-free runtime: opens a bundle, generates from it, and verifies it.

Needs numpy, tokenizers, safetensors and one inference engine; never PyTorch, never onnx. Its public
face is `edgegpt.load`.

It prints nothing. Each module logs to its own child of the logger "edgegpt". INFO is for rare
events, such as an engine that is chosen, opened, built, or taken. DEBUG is for events of each
generation, such as its cache. A decode step logs nothing. A program turns the log on with:

    logging.basicConfig()
    logging.getLogger("edgegpt").setLevel(logging.INFO)

On the command line, `edgegpt -v COMMAND` shows INFO, and `edgegpt -vv COMMAND` also DEBUG.
"""

import logging
import os

__all__ = ()

# Nothing leaves the device. ONNX Runtime 1.29 and later sends telemetry. It reads this variable
# once, when any part of the program first imports it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Without a handler, logging itself would print warnings in a program that set up no logging.
logging.getLogger("edgegpt").addHandler(logging.NullHandler())
