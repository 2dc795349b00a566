"""The zygote of a pool: imports what its workers need once, and forks them when the host asks for it.

It stays free of threads, so that a fork is safe: the pools of numeric libraries are kept at one thread while they are
loaded, and get their size back in each worker. The protocol on its socket is in docs/design.md, "The zygote".

Imports nothing of the package, whose extension may be what fails.
"""

from __future__ import annotations

import array
import ctypes
import errno
import gc
import os
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from types import ModuleType, TracebackType

FORK, REAP, READY, UNFIT, FORKED, NOT_FORKED, ENDED, RUNS = range(1, 9)
FAILED = 9  # as on the wire of a worker
HAS_PIDFDS = 1
HEADER = struct.Struct(">BBHIQII")
FORK_HEAD = struct.Struct(">iII")  # processor, arguments, variables
END = struct.Struct(">IQQ")  # status of wait, bytes, milliseconds
STATUS_UNKNOWN = 0xFFFFFFFF
FRAME_LIMIT = 16 << 20
FDS_MAX = 5  # standard output, standard error, the worker's socket, where stacks go, a pipe whose end is the worker's
TEXT_MAX = 512
# What nearly every script imports first, which takes longer than a fork and the rest of the start together.
RUNTIME = ("pyproc_worker", "google.protobuf.internal.builder", "google.protobuf.internal.well_known_types")

# Each pool of threads: in which libraries, how its size is set, the variables that name it (the first that is set
# counts), and whether it is as large as the machine where none is.
_OPENBLAS = [f"{prefix}openblas_set_num_threads{suffix}" for prefix in ("", "scipy_") for suffix in ("", "64_", "_64")]
POOLS = [
    (("openblas",), _OPENBLAS, ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"), True),
    (("libgomp", "libomp", "libiomp"), ["omp_set_num_threads"], ("OMP_NUM_THREADS",), True),
    (("libmkl_rt",), ["MKL_Set_Num_Threads"], ("MKL_NUM_THREADS", "OMP_NUM_THREADS"), True),
    (("libblis",), ["bli_thread_set_num_threads"], ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"), False),
]
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
             "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS")


# ---- what makes a fork unsafe ----


def _mapped_files() -> list[str]:
    """The files that are mapped into this process; empty where the system does not tell."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            return sorted({line.split(maxsplit=5)[5].strip() for line in maps if "/" in line})
    except (OSError, IndexError):
        return []


def _thread_names() -> list[str]:
    """The names of all threads but this one, those of libraries among them where the system tells."""
    try:
        others = [task for task in os.listdir("/proc/self/task") if task != str(threading.get_native_id())]
    except OSError:
        return [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
    known = {str(thread.native_id): thread.name for thread in threading.enumerate()}
    names = []
    for task in others:
        try:
            with open(f"/proc/self/task/{task}/comm", encoding="utf-8", errors="replace") as comm:
                names.append(known.get(task) or comm.read().strip())
        except OSError:
            continue  # it has just ended
    return names


def _threads_reason() -> str:
    names = _thread_names()
    if not names:
        return ""
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{len(names)} more thread{'s run' if len(names) > 1 else ' runs'} in it ({shown})"


def unfit_reason() -> str:
    """Why this process must not be forked; an empty text: it may be."""
    if "grpc._cython.cygrpc" in sys.modules:
        return "grpc is loaded, which does not work in a forked process"
    names = [os.path.basename(path) for path in _mapped_files()]
    if any(name.startswith("libcuda.so") for name in names):
        return "CUDA is loaded (libcuda.so), which does not work in a forked process"
    if any(name.startswith("libgrpc.so") for name in names):
        return "grpc is loaded (libgrpc.so), which does not work in a forked process"
    return _threads_reason()


# ---- pools of threads ----


class ThreadPools:
    """The thread pools of numeric libraries: one thread while they are loaded, their own size in each worker."""

    def __init__(self) -> None:
        self._setters: list[tuple[Callable[[int], object], tuple[str, ...], bool]] = []

    @staticmethod
    def hold() -> None:
        """Before anything is loaded."""
        os.environ.update(dict.fromkeys(VARIABLES, "1"))

    def find(self) -> None:
        """Looks for the pools of the libraries that are loaded now."""
        for path in _mapped_files():
            name = os.path.basename(path)
            for marks, functions, variables, is_large in POOLS:
                if any(mark in name for mark in marks):
                    self._find_in(path, functions, variables, is_large)

    def _find_in(self, path: str, functions: list[str], variables: tuple[str, ...], is_large: bool) -> None:
        try:
            library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD)
        except OSError:
            return
        for function in functions:
            setter = getattr(library, function, None)
            if setter is not None:
                setter.argtypes, setter.restype = [ctypes.c_int], None
                self._setters.append((setter, variables, is_large))
                return

    def restore(self) -> None:
        """In a worker, whose environment is its own already."""
        for setter, variables, is_large in self._setters:
            wanted = _wanted_threads(variables, is_large)
            if wanted > 1:
                setter(wanted)
        numexpr = sys.modules.get("numexpr.utils")
        restore = getattr(numexpr, "_init_num_threads", None)
        if restore is not None:
            restore()


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _wanted_threads(variables: Iterable[str], is_large: bool) -> int:
    most = _processors()
    for variable in variables:
        text = os.environ.get(variable, "").split(",")[0].strip()
        if text.isascii() and text.isdigit() and int(text) > 0:
            return min(int(text), most)
    return most if is_large else 1


# ---- what must differ between workers ----


def _renew_seeds() -> None:
    """Python's own random module does that by itself."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    ssl = sys.modules.get("ssl")
    if ssl is not None:
        ssl.RAND_add(os.urandom(32), 0.0)
    uuid = sys.modules.get("uuid")
    for name in list(vars(uuid)) if uuid is not None else ():
        if name == "_node" or name.startswith("_last_timestamp"):
            setattr(uuid, name, None)
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process().authkey = os.urandom(32)
        getattr(process.current_process(), "_config", {}).pop("tempdir", None)


def _renew_thread() -> None:
    """Python before 3.13 leaves a forked main thread the number of its parent's."""
    renew = getattr(threading.main_thread(), "_set_native_id", None)
    if renew is not None:
        renew()


def _renew_worker() -> None:
    """What the package took from the environment when it was imported."""
    server = sys.modules.get("pyproc_worker._server")
    if server is not None:
        server.process.renew()


def _is_package_old() -> bool:
    process = getattr(sys.modules.get("pyproc_worker._server"), "process", None)
    return process is not None and not hasattr(process, "renew")


# ---- the zygote ----


class Request:
    """What the host wants forked: what differs from worker to worker."""

    def __init__(self, body: bytes, fds: list[int]) -> None:
        self.processor, arguments, variables = FORK_HEAD.unpack_from(body)
        texts = body[FORK_HEAD.size:].split(b"\0")
        if len(texts) != arguments + variables + 2 or texts[-1] != b"" or not arguments:
            raise ValueError("a request for a fork makes no sense")
        self.cwd = texts[0]
        self.arguments = [os.fsdecode(text) for text in texts[1:arguments + 1]]
        pairs = (text.partition(b"=") for text in texts[arguments + 1:-1])
        self.variables = {name: value for name, _, value in pairs if name}
        self.fds = fds
        self.has_stacks = b"PYPROC_STACKS_FD" in self.variables
        self.has_pipe = len(fds) > 3 + self.has_stacks
        if len(fds) not in (3 + self.has_stacks, 4 + self.has_stacks):
            raise ValueError("a request for a fork has the wrong number of descriptors")


def _flush() -> None:
    """What was printed goes now, neither after what is said of it nor twice."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def _has_pidfds() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def _start_of(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


class Zygote:
    """Imports, then forks whenever the host says so."""

    def __init__(self, fd: int, host_fd: int, describe: ModuleType) -> None:
        self._fd = fd
        self._host_fd = host_fd
        self._describe = describe
        self._wire = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=fd)
        self._has_pidfds = _has_pidfds()
        self._pools = ThreadPools()
        self._children: set[int] = set()
        self._poll = select.poll()
        for number in (fd, host_fd):
            os.set_inheritable(number, False)
            self._poll.register(number, select.POLLIN)

    def _send(self, kind: int, id: int = 0, body: bytes = b"", code: int = 0, fd: int = -1) -> None:
        payload = HEADER.pack(kind, 0, code, 0, id, 0, 0) + body
        data = struct.pack(">I", len(payload)) + payload
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []
        try:
            sent = self._wire.sendmsg([data], rights)
            self._wire.sendall(data[sent:])
        except OSError:
            sys.exit(0)  # the host has gone

    def _read(self, size: int, fds: list[int]) -> bytes:
        """Exactly so many bytes, with the descriptors that come along; ends the process where the host has gone."""
        data = b""
        while len(data) < size:
            if any(fd == self._host_fd for fd, _ in self._poll.poll()):
                sys.exit(0)
            flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
            room = socket.CMSG_SPACE(4 * FDS_MAX)
            part, rights, _, _ = self._wire.recvmsg(min(size - len(data), 1 << 20), room, flags)
            for _, kind, given in rights:
                if kind == socket.SCM_RIGHTS:
                    numbers = array.array("i")
                    numbers.frombytes(given[:len(given) - len(given) % numbers.itemsize])
                    fds.extend(numbers)
            if not part:
                sys.exit(0)
            data += part
        return data

    def _preload(self, modules: list[str]) -> None:
        for name in modules:
            try:
                __import__(name)
            except BaseException as error:
                text = f"cannot import {name!r}: {type(error).__name__}: {self._describe.message_of(error)}"
                if isinstance(error, ModuleNotFoundError):
                    text += " (install it in this Python, or leave it out)"
                trace = self._describe.traceback_text(error, _start_of(error.__traceback__))
                kind = self._describe.type_name(error)
                _flush()
                self._send(FAILED, body=self._describe.error_object(text, kind, trace))
                sys.exit(1)
        for name in RUNTIME:
            try:
                __import__(name)
            except ImportError:
                pass  # the script says what is missing, if it is needed

    def _check(self) -> None:
        reason = unfit_reason()
        if not reason and _is_package_old():
            reason = "the pyproc_worker that is installed in this Python is older than the library"
        if reason:
            self._send(UNFIT, body=reason.encode("utf-8", "replace")[:TEXT_MAX])
            sys.exit(0)

    def _become_worker(self, request: Request) -> None:
        """In a child that was just forked."""
        try:
            os.setpgid(0, 0)
            out, err, wire = request.fds[:3]
            os.dup2(out, 1)
            os.dup2(err, 2)
            self._wire.detach()
            os.dup2(wire, self._fd, inheritable=False)
            for fd in request.fds[:3]:
                os.close(fd)
            os.environb.clear()
            os.environb.update(request.variables)
            if request.has_stacks:
                os.environ["PYPROC_STACKS_FD"] = str(request.fds[3])
            sys.argv[:] = request.arguments
        except BaseException as error:
            os.write(2, f"a forked worker failed: {error!r}\n".encode("utf-8", "replace"))
            os._exit(127)

    def settle(self, request: Request) -> None:
        """In a worker: makes it differ from its siblings, and gives it what the zygote had to do without."""
        if request.processor >= 0:
            os.sched_setaffinity(0, {request.processor})
        self._pools.restore()
        _renew_seeds()
        _renew_thread()
        _renew_worker()

    def _fork(self, id: int, request: Request) -> bool:
        """Returns whether this is the child."""
        reason = _threads_reason()
        if reason:
            self._send(NOT_FORKED, id, reason.encode("utf-8", "replace")[:TEXT_MAX], errno.EDEADLK)
            return False
        try:
            if request.cwd:
                os.chdir(request.cwd)
            _flush()
            pid = os.fork()
        except (OSError, ValueError) as error:
            self._refuse(id, error)
            return False
        if pid == 0:
            self._become_worker(request)
            return True
        self._tell_of(id, pid, has_pipe=request.has_pipe)
        return False

    def _tell_of(self, id: int, pid: int, has_pipe: bool) -> None:
        """Tells the host of a child."""
        pidfd = -1
        try:
            os.setpgid(pid, pid)
        except OSError:
            pass  # it was quicker
        try:
            if not has_pipe:
                pidfd = os.pidfd_open(pid)
        except OSError as error:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._refuse(id, error)
            return
        self._children.add(pid)
        self._send(FORKED, id, struct.pack(">I", pid), fd=pidfd)
        if pidfd >= 0:
            os.close(pidfd)

    def _refuse(self, id: int, error: Exception) -> None:
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EINVAL
        self._send(NOT_FORKED, id, str(error).encode("utf-8", "replace")[:TEXT_MAX], number)

    def _reap(self, pid: int) -> None:
        status, size, time_ms = STATUS_UNKNOWN, 0, 0
        if pid in self._children:
            try:
                found, status, usage = os.wait4(pid, os.WNOHANG)
            except ChildProcessError:
                self._children.discard(pid)
            else:
                if found == 0:
                    self._send(RUNS, pid)
                    return
                self._children.discard(pid)
                size = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
                time_ms = int((usage.ru_utime + usage.ru_stime) * 1000)
        self._send(ENDED, pid, END.pack(status, size, time_ms))

    def _turn(self) -> Request | None:
        """Does what the host asks for next. Returns the request in the worker that it has become, else None."""
        fds: list[int] = []
        try:
            size, = struct.unpack(">I", self._read(4, fds))
            if not HEADER.size <= size <= FRAME_LIMIT:
                raise ValueError(f"a frame of {size} bytes makes no sense")
            payload = self._read(size, fds)
            kind, _, _, _, id, _, _ = HEADER.unpack_from(payload)
            if kind == REAP:
                self._reap(id)
                return None
            if kind != FORK:
                raise ValueError(f"a frame of kind {kind} makes no sense")
            request = Request(payload[HEADER.size:], fds)
            if self._fork(id, request):
                fds = []
                return request
        finally:
            for fd in fds:
                os.close(fd)
        return None

    def run(self, modules: list[str]) -> Request:
        """Serves the host; returns in each worker."""
        self._pools.hold()
        self._preload(modules)
        self._check()
        self._pools.find()
        gc.collect()
        gc.freeze()
        self._send(READY, code=HAS_PIDFDS if self._has_pidfds else 0)
        while True:
            request = self._turn()
            if request is not None:
                return request


def start(describe: ModuleType) -> Zygote:
    """Takes the descriptors that the environment names."""
    fd, host_fd = (int(os.environ.pop(name)) for name in ("PYPROC_ZYGOTE_FD", "PYPROC_HOST_FD"))
    return Zygote(fd, host_fd, describe)
