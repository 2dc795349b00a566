"""The messages of the services that every gRPC worker has, made at run time: health, reflection, and calls by name.

Their descriptors are built here and not generated, so that no protobuf version is asked for, and kept in a pool of
their own, so that modules which were generated from the same files may be loaded beside them.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {"string": _FIELD.TYPE_STRING, "bytes": _FIELD.TYPE_BYTES, "int32": _FIELD.TYPE_INT32}

# Fields are (number, type, name): a type that is no scalar is a message or enum of the same package; `[]` behind it
# makes the field repeated, `?` a member of the message's oneof.
Fields = tuple[tuple[int, str, str], ...]
Rpcs = tuple[tuple[str, str, str, str], ...]  # name, request, reply, kind

HEALTH = "grpc.health.v1"
REFLECTIONS = ("grpc.reflection.v1alpha", "grpc.reflection.v1")
DYNAMIC = "pyproc"

_HEALTH_MESSAGES: dict[str, Fields] = {
    "HealthCheckRequest": ((1, "string", "service"),),
    "HealthCheckResponse": ((1, "HealthCheckResponse.ServingStatus", "status"),),
}
_HEALTH_STATES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_HEALTH_RPCS: Rpcs = (("Check", "HealthCheckRequest", "HealthCheckResponse", "unary"),
                      ("Watch", "HealthCheckRequest", "HealthCheckResponse", "server_stream"))

_REFLECTION_MESSAGES: dict[str, Fields] = {
    "ServerReflectionRequest": (
        (1, "string", "host"), (3, "string?", "file_by_filename"), (4, "string?", "file_containing_symbol"),
        (5, "ExtensionRequest?", "file_containing_extension"), (6, "string?", "all_extension_numbers_of_type"),
        (7, "string?", "list_services")),
    "ExtensionRequest": ((1, "string", "containing_type"), (2, "int32", "extension_number")),
    "ServerReflectionResponse": (
        (1, "string", "valid_host"), (2, "ServerReflectionRequest", "original_request"),
        (4, "FileDescriptorResponse?", "file_descriptor_response"),
        (5, "ExtensionNumberResponse?", "all_extension_numbers_response"),
        (6, "ListServiceResponse?", "list_services_response"), (7, "ErrorResponse?", "error_response")),
    "FileDescriptorResponse": ((1, "bytes[]", "file_descriptor_proto"),),
    "ExtensionNumberResponse": ((1, "string", "base_type_name"), (2, "int32[]", "extension_number")),
    "ListServiceResponse": ((1, "ServiceResponse[]", "service"),),
    "ServiceResponse": ((1, "string", "name"),),
    "ErrorResponse": ((1, "int32", "error_code"), (2, "string", "error_message")),
}
_REFLECTION_ONEOFS = {"ServerReflectionRequest": "message_request", "ServerReflectionResponse": "message_response"}
_REFLECTION_RPCS: Rpcs = (("ServerReflectionInfo", "ServerReflectionRequest", "ServerReflectionResponse", "bidi"),)

_DYNAMIC_MESSAGES: dict[str, Fields] = {
    "DynamicRequest": ((1, "string", "method"), (2, "string", "body")),
    "DynamicReply": ((1, "string", "body"),),
}
_DYNAMIC_RPCS: Rpcs = (("Call", "DynamicRequest", "DynamicReply", "unary"),)


def _add_field(message: Any, package: str, number: int, kind: str, name: str, enums: tuple[str, ...]) -> None:
    plain = kind.rstrip("[]?")
    one = message.field.add(name=name, number=number, label=_FIELD.LABEL_REPEATED if kind.endswith("[]")
                            else _FIELD.LABEL_OPTIONAL)
    if plain in _SCALARS:
        one.type = _SCALARS[plain]
    else:
        one.type = _FIELD.TYPE_ENUM if plain in enums else _FIELD.TYPE_MESSAGE
        one.type_name = f".{package}.{plain}"
    if kind.endswith("?"):
        one.oneof_index = 0


def _file(name: str, package: str, service: str, messages: dict[str, Fields], rpcs: Rpcs, *,
          oneofs: dict[str, str] | None = None, enum: tuple[str, str, tuple[str, ...]] | None = None) -> Any:
    """A file's descriptor; ``enum`` is (message that it is in, name, names of its values from 0)."""
    file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3")
    enums = (f"{enum[0]}.{enum[1]}",) if enum else ()
    for message_name, fields in messages.items():
        message = file.message_type.add(name=message_name)
        if oneofs and message_name in oneofs:
            message.oneof_decl.add(name=oneofs[message_name])
        if enum and enum[0] == message_name:
            made = message.enum_type.add(name=enum[1])
            for number, value in enumerate(enum[2]):
                made.value.add(name=value, number=number)
        for number, kind, field in fields:
            _add_field(message, package, number, kind, field, enums)
    added = file.service.add(name=service)
    for rpc, request, reply, kind in rpcs:
        added.method.add(name=rpc, input_type=f".{package}.{request}", output_type=f".{package}.{reply}",
                         client_streaming=kind in ("client_stream", "bidi"),
                         server_streaming=kind in ("server_stream", "bidi"))
    return file


def _make_pool() -> Any:
    made = descriptor_pool.DescriptorPool()

    def add(file: Any) -> None:
        made.AddSerializedFile(file.SerializeToString())

    add(_file("grpc/health/v1/health.proto", HEALTH, "Health", _HEALTH_MESSAGES, _HEALTH_RPCS,
              enum=("HealthCheckResponse", "ServingStatus", _HEALTH_STATES)))
    for package in REFLECTIONS:
        add(_file(package.replace(".", "/") + "/reflection.proto", package, "ServerReflection",
                  _REFLECTION_MESSAGES, _REFLECTION_RPCS, oneofs=_REFLECTION_ONEOFS))
    add(_file("pyproc/dynamic.proto", DYNAMIC, "Dynamic", _DYNAMIC_MESSAGES, _DYNAMIC_RPCS))
    return made


pool: Any = None


def message_class(full_name: str) -> Any:
    """The class of one of these messages, on protobuf 3.21 to 7."""
    global pool
    if pool is None:
        pool = _make_pool()
    descriptor = pool.FindMessageTypeByName(full_name)
    get = getattr(message_factory, "GetMessageClass", None)  # since 4.22; the older way is gone from later ones
    return get(descriptor) if get is not None else message_factory.MessageFactory(pool).GetPrototype(descriptor)
