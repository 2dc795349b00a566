"""Answers with the number that it was asked, after a while where it is told to; a cancelled call ends at once."""
import os
import threading
from typing import Any, Dict

from async_calls_pyproc import AskerHandler, AskReply, AskRequest, serve

from pyproc_worker import Context, expose


class Asker(AskerHandler):
    """Handles async_calls.Asker."""

    def ask(self, request: AskRequest, context: Context) -> AskReply:
        """The number, and the load, that it got."""
        if request.wait_ms:
            context.cancel_event.wait(request.wait_ms / 1000)
        if request.raises:
            raise ValueError(request.raises)
        return AskReply(number=request.number, pid=os.getpid(), load=request.load)

    def ask_again(self, request: AskRequest, context: Context) -> AskReply:
        """The same."""
        return self.ask(request, context)


@expose
def ask(body: Dict[str, Any], cancel_event: threading.Event) -> Dict[str, Any]:
    """The same without a schema."""
    if body.get("wait_ms"):
        cancel_event.wait(body["wait_ms"] / 1000)
    return {"number": body["number"]}


if __name__ == "__main__":
    serve(Asker())
