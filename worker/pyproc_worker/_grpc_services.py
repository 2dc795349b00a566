"""The services that every gRPC worker has besides its own: health and reflection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import grpc
from grpc import aio

from . import _grpc_messages
from ._codes import Code
from ._grpc_call import Entry
from ._grpc_messages import HEALTH, REFLECTIONS, message_class

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
Make = Callable[[str, Callable[[Any, Any], Awaitable[Any]], Any, Any], Any]  # of a kind: function, parse, serialise
OWN_STREAMS_MAX = 256  # of health, and of reflection


def service_names(entries: Iterable[Entry]) -> tuple[str, ...]:
    """The services of a worker, its own first."""
    own = dict.fromkeys(entry.name.rpartition("/")[0] for entry in entries if "/" in entry.name)
    return (*own, f"{HEALTH}.Health", *(f"{package}.ServerReflection" for package in REFLECTIONS), "pyproc.Dynamic")


class Health:
    """``grpc.health.v1``: the worker, named by an empty text, and each of its services serve until it stops."""

    def __init__(self, names: Iterable[str], stopped: asyncio.Event) -> None:
        self._names = {"", *names}
        self._request = message_class(f"{HEALTH}.HealthCheckRequest")
        self._response = message_class(f"{HEALTH}.HealthCheckResponse")
        self._stopped = stopped
        self._watching = 0

    def handlers(self, make: Make) -> dict[str, Any]:
        """What grpc calls, by method."""
        parse, serialise = self._request.FromString, self._response.SerializeToString
        return {f"/{HEALTH}.Health/Check": make("unary", self._check, parse, serialise),
                f"/{HEALTH}.Health/Watch": make("server_stream", self._watch, parse, serialise)}

    def _status(self, name: str) -> int:
        if name not in self._names:
            return SERVICE_UNKNOWN
        return NOT_SERVING if self._stopped.is_set() else SERVING

    async def _check(self, request: Any, context: Any) -> Any:
        status = self._status(request.service)
        if status == SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND,
                                f"there is no service {request.service[:200]!r} in this worker")
        return self._response(status=status)

    async def _watch(self, request: Any, context: Any) -> None:
        if self._watching >= OWN_STREAMS_MAX:
            context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
            context.set_details(f"{OWN_STREAMS_MAX} clients watch already")
            return
        self._watching += 1
        try:
            told = self._status(request.service)
            await context.write(self._response(status=told))
            await self._stopped.wait()
            if self._status(request.service) != told:
                await context.write(self._response(status=self._status(request.service)))
        finally:
            self._watching -= 1


class Reflection:
    """Server reflection, v1 and v1alpha, from the descriptors of the messages that handlers take and give."""

    def __init__(self, names: Sequence[str], entries: Iterable[Entry], stopped: asyncio.Event) -> None:
        self._names = names
        self._stopped = stopped
        self._open = 0
        message_class(f"{HEALTH}.HealthCheckRequest")  # has the pool made
        self._pools = [_grpc_messages.pool]
        for entry in entries:
            for kind in (entry.request, entry.reply):
                pool = kind.DESCRIPTOR.file.pool if kind is not None else None
                if pool is not None and not any(pool is other for other in self._pools):
                    self._pools.append(pool)

    def handlers(self, make: Make) -> dict[str, Any]:
        """What grpc calls, by method."""
        made = {}
        for package in REFLECTIONS:
            request = message_class(f"{package}.ServerReflectionRequest")
            response = message_class(f"{package}.ServerReflectionResponse")
            made[f"/{package}.ServerReflection/ServerReflectionInfo"] = make(
                "bidi", self._server(response), request.FromString, response.SerializeToString)
        return made

    def _server(self, response: Any) -> Callable[[Any, Any], Awaitable[None]]:
        async def serve(_requests: Any, context: Any) -> None:
            if self._open >= OWN_STREAMS_MAX:
                context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
                context.set_details(f"{OWN_STREAMS_MAX} clients ask already")
                return
            self._open += 1
            stopped = asyncio.ensure_future(self._stopped.wait())
            try:
                await self._serve(context, response, stopped)
            finally:
                self._open -= 1
                stopped.cancel()

        return serve

    async def _serve(self, context: Any, response: Any, stopped: asyncio.Future[Any]) -> None:
        while not stopped.done():
            read = asyncio.ensure_future(context.read())
            await asyncio.wait({read, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not read.done() or read.result() is aio.EOF:
                read.cancel()
                return
            await context.write(self._answer(read.result(), response))

    def _answer(self, request: Any, response: Any) -> Any:
        answer = response(valid_host=request.host, original_request=request)
        asked = request.WhichOneof("message_request")
        try:
            if asked == "list_services":
                for name in self._names:
                    answer.list_services_response.service.add(name=name)
            elif asked == "file_by_filename":
                self._put_file(answer, self._find("FindFileByName", request.file_by_filename))
            elif asked == "file_containing_symbol":
                self._put_file(answer, self._find("FindFileContainingSymbol", request.file_containing_symbol))
            elif asked == "file_containing_extension":
                self._put_file(answer, self._find_extension(request.file_containing_extension).file)
            elif asked == "all_extension_numbers_of_type":
                self._put_extensions(answer, request.all_extension_numbers_of_type)
            else:
                self._put_error(answer, Code.INVALID_ARGUMENT, "the request asks for nothing")
        except KeyError:
            self._put_error(answer, Code.NOT_FOUND, "this worker knows nothing of that name")
        return answer

    @staticmethod
    def _put_error(answer: Any, code: Code, message: str) -> None:
        answer.error_response.error_code = int(code)
        answer.error_response.error_message = message

    def _find(self, method: str, *arguments: Any) -> Any:
        """Looks in all pools; KeyError."""
        for pool in self._pools:
            try:
                return getattr(pool, method)(*arguments)
            except KeyError:
                pass
        raise KeyError(arguments[0])

    def _find_extension(self, asked: Any) -> Any:
        for pool in self._pools:
            try:
                return pool.FindExtensionByNumber(pool.FindMessageTypeByName(asked.containing_type),
                                                  asked.extension_number)
            except KeyError:
                pass
        raise KeyError(asked.containing_type)

    def _put_extensions(self, answer: Any, name: str) -> None:
        message = self._find("FindMessageTypeByName", name)
        answer.all_extension_numbers_response.base_type_name = name
        found = message.file.pool.FindAllExtensions(message)
        answer.all_extension_numbers_response.extension_number.extend(sorted(field.number for field in found))

    @staticmethod
    def _put_file(answer: Any, file: Any) -> None:
        """A file and all that it imports, which saves the client asking for them."""
        seen: dict[str, Any] = {}
        waiting = [file]
        while waiting:
            one = waiting.pop()
            if one.name not in seen:
                seen[one.name] = one
                waiting.extend(one.dependencies)
        answer.file_descriptor_response.file_descriptor_proto.extend(one.serialized_pb for one in seen.values())
