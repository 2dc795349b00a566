"""The registered codecs that the end-to-end tests use, with codecs.c on the host's side."""
import json
import os
import sys
from typing import Any

from pyproc_worker import register_codec

_TABLE = bytes(byte ^ 0x55 for byte in range(256))


def turned(data: bytes) -> bytes:
    """Every byte xored by 0x55."""
    return data.translate(_TABLE)


def register() -> None:
    """Registers "turned", and "msgpack" where there is one."""
    def unpack(data: bytes, message_class: Any) -> Any:
        return message_class.FromString(turned(data))

    register_codec("turned", pack=lambda message: turned(message.SerializeToString()), unpack=unpack,
                   dumps=lambda value: turned(json.dumps(value, allow_nan=False, separators=(",", ":")).encode()),
                   loads=lambda data: json.loads(turned(data)))
    sys.path.append(os.path.join(os.environ["PYPROC_TEST_SOURCE"], "examples", "msgpack"))
    try:
        import msgpack_codec
    except ImportError:
        return
    msgpack_codec.register()
