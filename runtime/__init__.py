"""The torch-free runtime: opens a bundle, generates from it, and verifies it.

Needs numpy, tokenizers, safetensors and one inference engine; never PyTorch, never onnx. Its public
face is `edgegpt.load`.
"""
