"""A worker script as one writes it for the Go library pyproc; it runs on that library's package and on ours."""
import os
import time

from pyproc_worker import expose, run_worker


@expose
def double(request):
    """Arithmetic."""
    return {"result": request["value"] * 2}


@expose
def echo(request):
    """Anything."""
    return request


@expose
def fail(request):
    """Raises."""
    raise ValueError(request["message"])


@expose
def pid(request):
    """The process, after so many milliseconds."""
    time.sleep(request.get("ms", 0) / 1000)
    return os.getpid()


@expose
def die(request):
    """Ends the process with that status."""
    os._exit(request["status"])


@expose
def unsendable(request):
    """Something that is no JSON."""
    return {1, 2, 3}


if __name__ == "__main__":
    run_worker()
