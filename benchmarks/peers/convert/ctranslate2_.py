"""Convert a checkpoint for CTranslate2: python convert/ctranslate2_.py HF OUT FORMAT."""

import sys

from ctranslate2.converters import TransformersConverter

if __name__ == "__main__":
    checkpoint, out, format_name = sys.argv[1:]
    quantization = {"float32": "float32", "int8": "int8_float32"}[format_name]
    TransformersConverter(checkpoint).convert(out, quantization=quantization, force=True)
