"""Lowerings: how the model's operators become ONNX operators, one module per family of targets."""
