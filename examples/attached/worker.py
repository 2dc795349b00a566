"""A worker that somebody else runs: systemd, a container runtime, or you in another terminal."""
import os

from pyproc_worker import expose, run_worker


@expose
def word_count(request):
    """How many words a text has, and who counted."""
    return {"words": len(request["text"].split()), "worker": os.getpid()}


if __name__ == "__main__":
    run_worker()  # on the socket that systemd passes, or on PYPROC_SOCKET_PATH
