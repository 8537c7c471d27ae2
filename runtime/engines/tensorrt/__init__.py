"""TensorRT engines: built from a bundle, kept in the user's cache, found again, and run.

`flavour` knows the two flavours, `network` turns a graph into a checked network, `profiles`,
`build_memory` and `builder` build it, `store` keeps it, and `prepare` puts these together.
`engine` and `session` run it.
"""
