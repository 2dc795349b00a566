"""Serves kinds.proto and legacy.proto."""
from typing import Any

import e2e_codecs
from google.protobuf.empty_pb2 import Empty
from kinds_pyproc import Everything, KindsHandler, Text, serve
from legacy_pyproc import LegacyHandler, Record


class Kinds(KindsHandler):
    """Echoes, and fails."""

    def echo(self, request: Everything, context: Any) -> Everything:
        """The request."""
        return request

    def nothing(self, request: Empty, context: Any) -> Empty:
        """Nothing."""
        return Empty()

    def fail(self, request: Text, context: Any) -> Text:
        """Raises."""
        raise ValueError(request.text)

    def wrong(self, request: Text, context: Any) -> Any:
        """A message of another type."""
        return Empty()


class Legacy(LegacyHandler):
    """Echoes."""

    def echo(self, request: Record, context: Any) -> Record:
        """The request."""
        return request


if __name__ == "__main__":
    e2e_codecs.register()
    serve(Kinds(), Legacy())
