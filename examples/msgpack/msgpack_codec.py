"""Messages and JSON values in MessagePack, for pyproc_worker; msgpack_codec.c says what they look like.

Needs python3-msgpack. What is read is another process's: lengths are bounded by the bytes that are there (msgpack's own
default), nesting here.
"""
from typing import Any

import msgpack
from pyproc_worker import register_codec

MESSAGES_DEEP = 100
VALUES_DEEP = 98


def _is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _value(field: Any, value: Any) -> Any:
    """A field's value as MessagePack has it."""
    return value if field.message_type is None else _fields(value)


def _fields(message: Any) -> "dict[int, Any]":
    """A message as MessagePack has it: its fields that are set, by their numbers."""
    found: "dict[int, Any]" = {}
    for field, value in message.ListFields():
        if _is_map(field):
            inner = field.message_type.fields_by_name["value"]
            found[field.number] = {key: _value(inner, item) for key, item in value.items()}
        elif field.label == field.LABEL_REPEATED:
            found[field.number] = [_value(field, item) for item in value]
        else:
            found[field.number] = _value(field, value)
    return found


def pack(message: Any) -> bytes:
    """A message to bytes."""
    return bytes(msgpack.packb(_fields(message)))


def _unpackb(data: bytes) -> Any:
    return msgpack.unpackb(data, strict_map_key=False)


def _checked(field: Any, value: Any) -> Any:
    """A scalar of the right kind; protobuf checks ranges, but takes True for 1 and 1 for True."""
    if (field.cpp_type == field.CPPTYPE_BOOL) != isinstance(value, bool):
        raise ValueError(f"{field.full_name} cannot be {value!r}")
    return value


def _set_map(message: Any, field: Any, pairs: Any, depth: int) -> None:
    if not isinstance(pairs, dict):
        raise ValueError(f"{field.full_name} is no map")
    target = getattr(message, field.name)
    key_field, inner = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    for key, value in pairs.items():
        if inner.message_type is not None:
            _fill(target[_checked(key_field, key)], value, depth + 2)
        else:
            target[_checked(key_field, key)] = _checked(inner, value)


def _set_repeated(message: Any, field: Any, values: Any, depth: int) -> None:
    if not isinstance(values, list):
        raise ValueError(f"{field.full_name} is no array")
    target = getattr(message, field.name)
    if field.message_type is None:
        target.extend([_checked(field, value) for value in values])
        return
    for value in values:
        _fill(target.add(), value, depth + 1)


def _fill(message: Any, fields: Any, depth: int) -> None:
    if not isinstance(fields, dict):
        raise ValueError(f"a {message.DESCRIPTOR.full_name} is no map")
    if depth > MESSAGES_DEEP:
        raise ValueError(f"messages are nested deeper than {MESSAGES_DEEP}")
    for number, value in fields.items():
        if type(number) is not int:
            raise ValueError(f"a {message.DESCRIPTOR.full_name} has the key {number!r}, which is no field number")
        field = message.DESCRIPTOR.fields_by_number.get(number)
        if field is None:
            continue  # of a newer schema
        if _is_map(field):
            _set_map(message, field, value, depth)
        elif field.label == field.LABEL_REPEATED:
            _set_repeated(message, field, value, depth)
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
            _fill(getattr(message, field.name), value, depth + 1)
        else:
            setattr(message, field.name, _checked(field, value))


def unpack(data: bytes, message_class: Any) -> Any:
    """Bytes to a message."""
    message = message_class()
    _fill(message, _unpackb(data), 1)
    if not message.IsInitialized():
        raise ValueError(f"{message.DESCRIPTOR.full_name} lacks {', '.join(message.FindInitializationErrors())}")
    return message


def _check(value: Any, depth: int) -> None:
    """Raises for what JSON has no form for: the caller of an exposed function reads its reply as JSON."""
    if isinstance(value, (list, tuple, dict)):
        if depth == VALUES_DEEP:
            raise ValueError(f"the value is nested deeper than {VALUES_DEEP}")
        if isinstance(value, dict) and not all(isinstance(key, str) and "\0" not in key for key in value):
            raise TypeError("the value has a key that is no name")
        for item in value.values() if isinstance(value, dict) else value:
            _check(item, depth + 1)
    elif isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"JSON has no {value}")
    elif value is not None and not isinstance(value, (str, int)):
        raise TypeError(f"JSON has no form for {type(value).__name__}")


def dumps(value: Any) -> bytes:
    """A JSON value to bytes."""
    _check(value, 0)
    return bytes(msgpack.packb(value))


def loads(data: bytes) -> Any:
    """Bytes to a JSON value."""
    value = _unpackb(data)
    _check(value, 0)
    return value


def register() -> None:
    """Makes pools with ``protocol = "msgpack"`` understood; before ``serve()``."""
    register_codec("msgpack", pack=pack, unpack=unpack, dumps=dumps, loads=loads)
