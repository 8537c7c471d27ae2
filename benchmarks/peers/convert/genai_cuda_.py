"""Build a GenAI model folder for CUDA: python convert/genai_cuda_.py HF OUT FORMAT."""

import sys

from genai_ import build

if __name__ == "__main__":
    sys.exit(build("cuda"))
