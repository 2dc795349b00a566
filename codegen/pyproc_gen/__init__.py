"""pyproc-gen: from a protobuf schema to typed C stubs and Python handlers.

The stages, one module each: `load` (protoc's descriptor set) -> `model` (frozen dataclasses) -> `check` -> `names` ->
`render` (templates), with `protobuf_c` and `protobuf_python` for what other generators write.
"""

__version__ = "0.1.0"
