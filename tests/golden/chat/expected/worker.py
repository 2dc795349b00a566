"""Handlers of chat.proto: written once by pyproc-gen, yours from here on."""

from typing import Iterator

from pyproc_worker import Code, Context, Error
from chat_pyproc import ChatRoomHandler, Chunk, HTTPInfo, SayReply, SayRequest, Summary, serve


class ChatRoom(ChatRoomHandler):
    """Service acme.chat.v1.ChatRoom."""

    def say(self, request: SayRequest, context: Context) -> SayReply:
        """Rpc Say."""
        raise Error(Code.UNIMPLEMENTED, "ChatRoom.say is still to be written")

    def history(self, request: SayRequest, context: Context) -> Iterator[SayReply]:
        """Rpc History."""
        raise Error(Code.UNIMPLEMENTED, "ChatRoom.history is still to be written: yield its messages")

    def upload(self, requests: Iterator[Chunk], context: Context) -> Summary:
        """Rpc Upload."""
        raise Error(Code.UNIMPLEMENTED, "ChatRoom.upload is still to be written")

    def converse(self, requests: Iterator[SayRequest], context: Context) -> Iterator[SayReply]:
        """Rpc Converse."""
        raise Error(Code.UNIMPLEMENTED, "ChatRoom.converse is still to be written: yield its messages")

    def get_httpinfo(self, request: SayRequest, context: Context) -> HTTPInfo:
        """Rpc GetHTTPInfo."""
        raise Error(Code.UNIMPLEMENTED, "ChatRoom.get_httpinfo is still to be written")


if __name__ == "__main__":
    serve(ChatRoom())
