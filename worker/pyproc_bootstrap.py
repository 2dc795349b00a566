"""Starts a worker script for a pyproc host: ``python3 pyproc_bootstrap.py SCRIPT [ARGUMENT ...]``.

The script runs as ``__main__``, as if Python had been given it. The folder of this file goes to the end of
``sys.path``, behind a ``pyproc_worker`` that is installed in this Python. Standard output is line-buffered. A script
that fails before it serves is reported to the host in a FAILED frame.

With ``--zygote=MODULE,…`` before the script it imports these modules, forks workers whenever the host asks for one, and
runs the script in each of them.

Pure Python, and nothing of the package is imported but by the script: its extension may be what fails.
"""

import faulthandler
import os
import sys
import types

ZYGOTE = "--zygote="


class Wire:
    """The inherited socket, until the package takes it over."""

    KIND_FAILED = 9
    FLAG_JSON = 1

    def __init__(self):
        """Keeps the descriptors from children that are started before the package is imported."""
        self.fd = self._keep("PYPROC_WORKER_FD")
        self._keep("PYPROC_HOST_FD")
        stacks = self._keep("PYPROC_STACKS_FD")
        if stacks >= 0:  # a crash while the script imports what it needs shall leave its stacks there, too
            faulthandler.enable(file=stacks, all_threads=True)

    @staticmethod
    def _keep(name):
        try:
            fd = int(os.environ.get(name, ""))
            os.set_inheritable(fd, False)
        except (ValueError, OSError):
            return -1
        return fd

    @staticmethod
    def is_taken():
        """Whether serve() has the socket, so that nothing may be written to it here."""
        server = sys.modules.get("pyproc_worker._server")
        process = getattr(server, "process", None)
        return bool(getattr(process, "took_wire", False) or getattr(process, "forked", False))

    def fail(self, text):
        """Tells the host; ``text`` is the error object as JSON."""
        if self.fd < 0 or self.is_taken():
            return
        import socket
        import struct
        payload = struct.pack(">BBHIQII", self.KIND_FAILED, self.FLAG_JSON, 0, 0, 0, 0, 0) + text
        try:
            with socket.socket(fileno=os.dup(self.fd)) as wire:
                wire.setblocking(True)
                wire.sendall(struct.pack(">I", len(payload)) + payload)
        except OSError:
            pass  # the host is gone: nobody is left to tell


def load_own(folder, name):
    """A module of the package, without importing the package."""
    import importlib.util
    path = os.path.join(folder, "pyproc_worker", "_%s.py" % name)
    spec = importlib.util.spec_from_file_location("pyproc_" + name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_describe(folder):
    """The package's own description of errors."""
    return load_own(folder, "describe")


def own_frames_skipped(trace):
    """The traceback from the script on; what failed before its first line is told by the exception alone."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def remedy(error):
    """The one command that mends a missing module, or an empty text."""
    import shlex
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing == "google" or (missing or "").startswith("google.protobuf"):
        command = shlex.join([sys.executable or "python3", "-m", "pip", "install", "protobuf"])
        return "this Python lacks protobuf, which generated code needs: run `%s`" % command
    return ""


def report(wire, folder, error):
    """Prints what went wrong as Python would, and tells the host."""
    describe = load_describe(folder)
    trace = own_frames_skipped(error.__traceback__)
    text = describe.traceback_text(error, trace)
    message = describe.message_of(error)
    advice = remedy(error)
    if advice:
        text += advice + "\n"
        message = "%s: %s" % (message, advice)
    try:
        sys.stdout.flush()
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        pass
    wire.fail(describe.error_object(message, describe.type_name(error), text))


class Source:
    """What stands in the script, as bytes, and its code, which is None until it is compiled."""

    def __init__(self, script):
        self.path = os.path.abspath(script)
        with open(self.path, "rb") as file:
            self.text = file.read()
        self.code = None

    def compile(self):
        """Returns the code."""
        if self.code is None:
            self.code = compile(self.text, self.path, "exec", dont_inherit=True)
        return self.code


def compiled(script):
    """The source with its code, for the workers that find the same text; None where they have to say what is wrong."""
    try:
        source = Source(script)
        source.compile()
    except Exception:  # not swallowed: each worker compiles it again, and reports that
        return None
    return source


def run(script, known):
    """Runs the script in a fresh ``__main__``. ``known`` is an earlier source, or None."""
    source = Source(script)
    if known is not None and (known.path, known.text) == (source.path, source.text):
        source = known
    path = source.path
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=path, __builtins__=__builtins__, __annotations__={}, __loader__=None,
                         __spec__=None, __package__=None, __cached__=None)
    sys.modules["__main__"] = main
    exec(source.compile(), main.__dict__)


def end_of(status):
    """The exit status of a SystemExit, as text."""
    if status is None or isinstance(status, int):
        return "status %d" % (status or 0)
    return repr(status)


def main():
    """Returns nothing; a failure ends the process with status 1, or with the script's own."""
    if len(sys.argv) < 2:
        sys.exit("usage: pyproc_bootstrap.py SCRIPT [ARGUMENT ...]")
    folder = os.path.dirname(os.path.abspath(__file__))
    modules = None
    if sys.argv[1].startswith(ZYGOTE) and len(sys.argv) > 2:
        modules = sys.argv.pop(1)[len(ZYGOTE):].split(",")
    script = sys.argv[1]
    del sys.argv[0]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    sys.path.append(folder)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(line_buffering=True)
    zygote = request = known = None
    if modules is not None:
        known = compiled(script)
        zygote = load_own(folder, "zygote").start(load_describe(folder))
        request = zygote.run(modules)  # returns in a worker that was forked
    wire = Wire()
    ended = "the script %s ended before it called serve() or run_worker()" % script
    try:
        if zygote is not None:
            zygote.settle(request)
        run(script, known)
    except SystemExit as error:
        message = "%s: it exited with %s" % (ended, end_of(error.code))
        wire.fail(load_describe(folder).error_object(message, "SystemExit"))
        raise
    except BaseException as error:
        report(wire, folder, error)
        sys.exit(1)
    if not wire.is_taken():
        wire.fail(load_describe(folder).error_object(ended + ": call one of them at its end"))


if __name__ == "__main__":
    main()
