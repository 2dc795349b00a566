"""A plain Thrift server: a thread for each connection, the accelerated binary protocol.

Usage: thrift_server.py PATH
"""
import sys
from typing import Any

import server  # noqa: F401
from bench import Predictor
from bench.ttypes import PredictReply
from thrift.protocol.TBinaryProtocol import TBinaryProtocolAcceleratedFactory
from thrift.server.TServer import TThreadedServer
from thrift.transport.TSocket import TServerSocket
from thrift.transport.TTransport import TBufferedTransportFactory


class Handler:
    """Handles Predictor."""

    def predict(self, request: Any) -> Any:
        """Answers with twice the value."""
        return PredictReply(result=request.value * 2)


class ReadySocket(TServerSocket):  # type: ignore[misc]
    """Tells when it listens."""

    def listen(self) -> None:
        """As its base."""
        super().listen()
        server.say_ready()


if __name__ == "__main__":
    server.end_with_input()
    TThreadedServer(Predictor.Processor(Handler()), ReadySocket(unix_socket=sys.argv[1]), TBufferedTransportFactory(),
                    TBinaryProtocolAcceleratedFactory(), daemon=True).serve()
