"""Fails as often as it is told to; counts the attempts of each key in the file RETRY_NOTES, beyond its own death."""
import os
import signal

from retrying_pyproc import FlakyHandler, TryReply, TryRequest, serve

from pyproc_worker import Code, Context, Error


class Flaky(FlakyHandler):
    """Handles retrying.Flaky."""

    def try_(self, request: TryRequest, context: Context) -> TryReply:
        """Answers which attempt it was."""
        path = os.environ["RETRY_NOTES"]
        with open(path, "a", encoding="utf-8") as file:
            file.write(request.key + "\n")
        with open(path, encoding="utf-8") as file:
            attempt = file.read().split("\n").count(request.key)
        if attempt <= request.failures:
            if request.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise Error(Code[request.how], f"attempt {attempt} fails")
        if request.wait_ms:
            context.cancel_event.wait(request.wait_ms / 1000)
        return TryReply(attempt=attempt)

    once = squeeze = plain = patient = try_


if __name__ == "__main__":
    serve(Flaky())
