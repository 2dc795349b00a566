"""The socket on which a worker without a host listens: its path, or what a service manager passes; who may connect."""

from __future__ import annotations

import errno
import os
import socket
import stat

ACTIVATED_FD = 3  # SD_LISTEN_FDS_START


def remove_stale(path: str) -> None:
    """Removes a socket that nobody listens on; anything else that is there is refused."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "this is no socket, so it is not replaced: choose another path", path)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            pass
        else:
            raise OSError(errno.EADDRINUSE, "another worker listens there: stop it, or choose another path", path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def listen(path: str) -> socket.socket:
    """A socket that listens there, readable and writable by its group."""
    remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        mask = os.umask(0o117)  # mode 0660 from the start
        try:
            listener.bind(path)
        finally:
            os.umask(mask)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen there: {error.strerror or error}", path) from error
    return listener


def peer_uid() -> int:
    """Who may connect to a socket beside root: this user unless PYPROC_PEER_UID says another, or ``any``: -1."""
    text = os.environ.pop("PYPROC_PEER_UID", "")
    if not text:
        return os.geteuid()
    if text == "any":
        return -1
    if not text.isascii() or not text.isdigit() or int(text) >= (1 << 32) - 1:
        raise ValueError(f"PYPROC_PEER_UID is {text!r}: it must be the number of a user, or any")
    return int(text)


def take_activated() -> socket.socket | None:
    """The socket that a service manager listens on for this process, None where there is none.

    The protocol is that of sd_listen_fds(3): descriptors from 3 up, their number in LISTEN_FDS, for LISTEN_PID alone.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"):
        os.environ.pop(name, None)
    if count != "1":
        raise ValueError(f"LISTEN_FDS is {count!r}: a worker serves one socket, so give its unit one ListenStream=")
    os.set_inheritable(ACTIVATED_FD, False)
    listener = socket.socket(fileno=ACTIVATED_FD)
    if (listener.family != socket.AF_UNIX or listener.type != socket.SOCK_STREAM
            or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)):
        listener.detach()
        raise ValueError("the socket that was passed is no Unix stream socket that listens: in its unit write "
                         "ListenStream=/a/path and leave Accept= no")
    listener.setblocking(False)
    return listener


def remove(path: str, made: os.stat_result) -> None:
    """Removes our own socket, not one that has replaced it."""
    try:
        now = os.lstat(path)
        if (now.st_dev, now.st_ino) == (made.st_dev, made.st_ino):
            os.unlink(path)
    except FileNotFoundError:
        pass
