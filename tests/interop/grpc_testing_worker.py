"""Serves grpc.testing.TestService for gRPC's interop programs; with the argument `async` by async handlers.

The folder of the generated modules is in GRPC_TESTING_GEN: the package of the schema would clash with grpcio's own.
"""
import asyncio
import os
import sys
import time

sys.path.insert(0, os.environ["GRPC_TESTING_GEN"])
from interop_schema.empty_pb2 import Empty  # noqa: E402
from interop_schema.messages_pb2 import (Payload, SimpleResponse, StreamingInputCallResponse,  # noqa: E402
                                         StreamingOutputCallResponse)
from interop_schema.test_pyproc import TestServiceHandler  # noqa: E402

from pyproc_worker import Error, serve  # noqa: E402

INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"


def echo(context, name):
    """Metadata of that name comes back."""
    for key, value in context.metadata:
        if key == name:
            context.add_metadata(key, value)


def check_status(request):
    """Some requests ask for a failure."""
    if request.HasField("response_status") and request.response_status.code:
        raise Error(request.response_status.code, request.response_status.message)


def simple_response(request, context):
    """The reply to one call."""
    echo(context, INITIAL)
    context.send_initial_metadata()
    echo(context, TRAILING)
    check_status(request)
    return SimpleResponse(payload=Payload(type=request.response_type, body=bytes(request.response_size)))


def output(request, parameters):
    """One message of many."""
    return StreamingOutputCallResponse(payload=Payload(type=request.response_type, body=bytes(parameters.size)))


class Plain(TestServiceHandler):
    """With plain handlers."""

    def empty_call(self, request, context):
        return Empty()

    def unary_call(self, request, context):
        return simple_response(request, context)

    def streaming_output_call(self, request, context):
        check_status(request)
        for parameters in request.response_parameters:
            time.sleep(parameters.interval_us / 1e6)
            yield output(request, parameters)

    def streaming_input_call(self, requests, context):
        return StreamingInputCallResponse(aggregated_payload_size=sum(len(one.payload.body) for one in requests))

    def full_duplex_call(self, requests, context):
        echo(context, INITIAL)
        for request in requests:
            check_status(request)
            for parameters in request.response_parameters:
                time.sleep(parameters.interval_us / 1e6)
                yield output(request, parameters)
        echo(context, TRAILING)


class Async(TestServiceHandler):
    """With async ones."""

    async def empty_call(self, request, context):
        return Empty()

    async def unary_call(self, request, context):
        return simple_response(request, context)

    async def streaming_output_call(self, request, context):
        check_status(request)
        for parameters in request.response_parameters:
            await asyncio.sleep(parameters.interval_us / 1e6)
            yield output(request, parameters)

    async def streaming_input_call(self, requests, context):
        total = 0
        async for request in requests:
            total += len(request.payload.body)
        return StreamingInputCallResponse(aggregated_payload_size=total)

    async def full_duplex_call(self, requests, context):
        echo(context, INITIAL)
        async for request in requests:
            check_status(request)
            for parameters in request.response_parameters:
                await asyncio.sleep(parameters.interval_us / 1e6)
                yield output(request, parameters)
        echo(context, TRAILING)


if __name__ == "__main__":
    serve(Async() if "async" in sys.argv[1:] else Plain())
