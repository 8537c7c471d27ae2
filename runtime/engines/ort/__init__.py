"""ONNX Runtime: on the CPU (`cpu`), and on CUDA (`cuda`)."""
