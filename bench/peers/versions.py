"""Prints the versions of Python and of the packages that take part, as a JSON object."""
import json
import platform
from importlib import metadata
from typing import Dict

PACKAGES = ("protobuf", "grpcio", "thrift", "pyzmq", "aiohttp")


def versions() -> Dict[str, str]:
    """Of those that are installed."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


if __name__ == "__main__":
    print(json.dumps(versions()))
