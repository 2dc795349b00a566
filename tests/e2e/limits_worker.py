"""Tells what its process was given, and takes more than it may."""
import os
import resource
import signal
import sys
from typing import Any

from pyproc_worker import expose, run_worker


def status(name: str) -> str:
    """A line of /proc/self/status."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(line.split("\t", 1)[1].strip() for line in file if line.startswith(name + ":"))


@expose
def facts(body: Any) -> Any:
    """What the tests compare."""
    mask = os.umask(0)
    os.umask(mask)
    return {
        "memory": resource.getrlimit(resource.RLIMIT_AS)[0], "cpu": list(resource.getrlimit(resource.RLIMIT_CPU)),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0], "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "nice": os.getpriority(os.PRIO_PROCESS, 0), "umask": mask, "uid": os.getresuid(), "gid": os.getresgid(),
        "groups": os.getgroups(), "no_new_privs": status("NoNewPrivs"), "cpus": sorted(os.sched_getaffinity(0)),
    }


@expose
def fact(body: Any) -> Any:
    """One of them."""
    return facts(None)[body]


@expose
def environment(body: Any) -> Any:
    """The names of the variables."""
    return sorted(os.environ)


@expose
def pid(body: Any) -> Any:
    """Of this worker."""
    return os.getpid()


@expose
def balloon(body: Any) -> Any:
    """Takes so many bytes."""
    return len(bytearray(body))


@expose
def burn(body: Any) -> Any:
    """Until the processor time is used up."""
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    while True:
        pass


@expose
def open_files(body: Any) -> Any:
    """Opens files until it cannot."""
    files = []
    try:
        while True:
            files.append(open("/dev/null", "rb"))  # noqa: SIM115
    finally:
        for file in files:
            file.close()


@expose
def print_by_name(body: Any) -> Any:
    """Opens its output anew, as shell scripts do."""
    with open("/dev/stderr", "a", encoding="utf-8") as file:
        file.write(body + "\n")
    print(body, "stdout", flush=True)
    print(body, "stderr", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_worker()
