"""Handlers of the users' programs: numbers that are doubled, and a chat room."""
import hashlib
import time
from typing import Iterator

from chat_pyproc import ChatRoomHandler, Chunk, SayReply, SayRequest, Summary
from quickstart_pyproc import PredictorHandler, PredictReply, PredictRequest, serve

LINES = 1000


class Predictor(PredictorHandler):
    """Handles quickstart.Predictor."""

    def predict(self, request: PredictRequest, context) -> PredictReply:
        """Answers with twice the value; a negative one makes it sleep that many seconds first."""
        if request.value < 0:
            time.sleep(-request.value)
        return PredictReply(result=request.value * 2)


class ChatRoom(ChatRoomHandler):
    """Handles acme.chat.v1.ChatRoom."""

    def say(self, request: SayRequest, context) -> SayReply:
        """Repeats what was said."""
        return SayReply(text=request.text)

    def history(self, request: SayRequest, context) -> Iterator[SayReply]:
        """What was said in a room."""
        for number in range(LINES):
            yield SayReply(text=f"{request.room} {number}", id=number)

    def upload(self, requests: Iterator[Chunk], context) -> Summary:
        """The sum of all chunks."""
        size, digest = 0, hashlib.sha256()
        for chunk in requests:
            size += len(chunk.data)
            digest.update(chunk.data)
        return Summary(bytes=size, digest=digest.hexdigest())

    def converse(self, requests: Iterator[SayRequest], context) -> Iterator[SayReply]:
        """Repeats what is said, until somebody says good-bye."""
        for number, request in enumerate(requests):
            yield SayReply(text=request.text, id=number)
            if request.text == "good-bye":
                return


if __name__ == "__main__":
    serve(Predictor(), ChatRoom())
