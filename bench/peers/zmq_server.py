"""A plain ZeroMQ server: one ROUTER socket, protobuf messages.

Usage: zmq_server.py ADDRESS
"""
import sys

import server
import zmq
from bench_pb2 import PredictReply, PredictRequest


def serve(address: str) -> None:
    """For ever."""
    socket = zmq.Context.instance().socket(zmq.ROUTER)
    socket.bind(address)
    server.say_ready()
    while True:
        client, empty, body = socket.recv_multipart()
        reply = PredictReply(result=PredictRequest.FromString(body).value * 2)
        socket.send_multipart((client, empty, reply.SerializeToString()))


if __name__ == "__main__":
    server.end_with_input()
    serve(sys.argv[1])
