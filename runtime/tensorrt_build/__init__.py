"""TensorRT engines: built from a bundle, kept in the user's cache, found again.

`vendor` knows the two flavours, `onnx_file` and `network` turn a graph into a checked network,
`profiles`, `memory` and `builder` build it, `store` keeps it, and `prepare` puts these together.
Running an engine is in `edgegpt.runtime.engines.tensorrt`.
"""
