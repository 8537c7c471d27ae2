"""TensorRT engines: build them from a bundle, keep them in the user's cache, and run them.

`flavour` describes the two flavours, `network` turns a graph into a checked network, `profiles`,
`build_memory` and `builder` build it, `store` keeps it, and `prepare` combines these. `engine` and
`session` run it.
"""
