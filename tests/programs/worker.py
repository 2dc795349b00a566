"""Doubles numbers; a negative one makes it sleep that many seconds first.

And a chat room, whose handlers are plain, or async with the argument `async`.
"""
import hashlib
import sys
import time
from typing import AsyncIterator, Iterator

from chat_pyproc import ChatRoomHandler, Chunk, HTTPInfo, SayReply, SayRequest, Summary
from quickstart_pyproc import PredictorHandler, PredictReply, PredictRequest, serve

from pyproc_worker import Code, Error


class Predictor(PredictorHandler):
    """Handles quickstart.Predictor."""

    def predict(self, request: PredictRequest, context) -> PredictReply:
        """Answers with twice the value."""
        if request.value < 0:
            time.sleep(-request.value)
        return PredictReply(result=request.value * 2)


def summary(size: int, digest: str) -> Summary:
    """What was uploaded."""
    return Summary(bytes=size, digest=digest)


class ChatRoom(ChatRoomHandler):
    """Handles acme.chat.v1.ChatRoom with plain functions and generators."""

    def say(self, request: SayRequest, context) -> SayReply:
        """The same text, beside the same metadata; "later" is an error."""
        for key, value in context.metadata:
            context.add_metadata(key, value)
        if request.text == "later":
            raise Error(Code.FAILED_PRECONDITION, "nobody listens", metadata=[("retry-after", "3")])
        return SayReply(text=request.text, id=1)

    def history(self, request: SayRequest, context) -> Iterator[SayReply]:
        """Five lines."""
        for number in range(5):
            yield SayReply(text=f"{request.text} {number}", id=number)

    def upload(self, requests: Iterator[Chunk], context) -> Summary:
        """Size and digest of all chunks."""
        size, digest = 0, hashlib.sha256()
        for chunk in requests:
            size += len(chunk.data)
            digest.update(chunk.data)
        return summary(size, digest.hexdigest())

    def converse(self, requests: Iterator[SayRequest], context) -> Iterator[SayReply]:
        """Each line, counted."""
        for number, request in enumerate(requests):
            yield SayReply(text=request.text, id=number)

    def get_httpinfo(self, request: SayRequest, context) -> HTTPInfo:
        """An address."""
        return HTTPInfo(url=f"http://{request.text}/")


class AsyncChatRoom(ChatRoomHandler):
    """The same with coroutines."""

    async def say(self, request: SayRequest, context) -> SayReply:
        """The same text."""
        return SayReply(text=request.text, id=1)

    async def history(self, request: SayRequest, context) -> AsyncIterator[SayReply]:
        """Five lines."""
        for number in range(5):
            yield SayReply(text=f"{request.text} {number}", id=number)

    async def upload(self, requests: AsyncIterator[Chunk], context) -> Summary:
        """Size and digest of all chunks."""
        size, digest = 0, hashlib.sha256()
        async for chunk in requests:
            size += len(chunk.data)
            digest.update(chunk.data)
        return summary(size, digest.hexdigest())

    async def converse(self, requests: AsyncIterator[SayRequest], context) -> AsyncIterator[SayReply]:
        """Each line, counted."""
        number = 0
        async for request in requests:
            yield SayReply(text=request.text, id=number)
            number += 1


if __name__ == "__main__":
    serve(Predictor(), AsyncChatRoom() if "async" in sys.argv[1:] else ChatRoom())
