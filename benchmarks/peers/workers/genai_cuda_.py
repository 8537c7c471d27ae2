"""Worker: ONNX Runtime GenAI on CUDA, with the options that its builder wrote, but without TF32.

The builder leaves CUDA graphs off; a format whose name ends in "graphs" turns them on.
"""

from pathlib import Path

import onnxruntime_genai as og
from genai_ import GenAI
from worker import serve


class GenAICuda(GenAI):
    def __init__(self, folder: Path, format_name: str, threads: int) -> None:
        config = og.Config(str(folder))
        config.set_provider_option("cuda", "use_tf32", "0")
        if format_name.endswith("graphs"):
            config.set_provider_option("cuda", "enable_cuda_graph", "1")
        self.model = og.Model(config)


if __name__ == "__main__":
    serve(GenAICuda, ["onnxruntime-genai-cuda", "onnxruntime-gpu"])
