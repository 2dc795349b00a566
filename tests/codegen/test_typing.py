"""Generated base classes under `mypy --strict`: plain and async handlers fit, others do not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import support
from conftest import Generated

CHAT = next(case for case in support.CASES if case.name == "chat")

HEAD = """\
import asyncio
from typing import AsyncIterator, Iterator

from pyproc_worker import Context
from chat_pyproc import ChatRoomHandler, Chunk, SayReply, SayRequest, Summary, serve
"""

PLAIN = HEAD.replace("import asyncio\n", "").replace("AsyncIterator, ", "") + """

class Plain(ChatRoomHandler):
    def say(self, request: SayRequest, context: Context) -> SayReply:
        return SayReply(text=request.text)

    def history(self, request: SayRequest, context: Context) -> Iterator[SayReply]:
        for number in range(3):
            yield SayReply(text=request.text, id=number)

    def upload(self, requests: Iterator[Chunk], context: Context) -> Summary:
        return Summary(bytes=sum(len(chunk.data) for chunk in requests))

    def converse(self, requests: Iterator[SayRequest], context: Context) -> Iterator[SayReply]:
        for request in requests:
            yield SayReply(text=request.text)


serve(Plain())
"""

ASYNC = HEAD.replace(", Iterator", "") + """

class Async(ChatRoomHandler):
    async def say(self, request: SayRequest, context: Context) -> SayReply:
        await asyncio.sleep(0)
        return SayReply(text=request.text)

    async def history(self, request: SayRequest, context: Context) -> AsyncIterator[SayReply]:
        for number in range(3):
            yield SayReply(text=request.text, id=number)

    async def upload(self, requests: AsyncIterator[Chunk], context: Context) -> Summary:
        return Summary(bytes=sum([len(chunk.data) async for chunk in requests]))

    async def converse(self, requests: AsyncIterator[SayRequest], context: Context) -> AsyncIterator[SayReply]:
        async for request in requests:
            yield SayReply(text=request.text)


serve(Async())
"""

WRONG = HEAD + """

class Wrong(ChatRoomHandler):
    def say(self, request: SayRequest, context: Context) -> int:
        return 1

    def history(self, request: SayRequest, context: Context) -> Iterator[int]:
        yield 1

    def upload(self, requests: Iterator[int], context: Context) -> Summary:
        return Summary(bytes=sum(requests))

    def converse(self, requests: AsyncIterator[int], context: Context) -> Iterator[SayReply]:
        yield SayReply()
"""


# protobuf's own classes, of which Debian has no stubs: only as far as generated ones name them.
STUBS = {
    "google/__init__.pyi": "",
    "google/protobuf/__init__.pyi": "",
    "google/protobuf/descriptor.pyi": "class FileDescriptor: ...\n",
    "google/protobuf/message.pyi": "class Message: ...\n",
}


def mypy(folder: Path, out: Path, *names: str) -> "subprocess.CompletedProcess[str]":
    """What mypy says of files."""
    if shutil.which("mypy") is None:
        pytest.skip("skipped: no mypy here")
    for path, text in STUBS.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    config = folder / "mypy.ini"
    config.write_text(f"[mypy]\nmypy_path = {folder}:{out}:{support.WORKER}\n")
    return subprocess.run(
        ["mypy", "--strict", "--follow-imports=silent", "--no-error-summary", f"--cache-dir={folder / 'cache'}",
         f"--config-file={config}", *names], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        universal_newlines=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that mypy reads the worker package once."""
    return tmp_path_factory.mktemp("typing")


def test_handlers_of_both_sorts_fit(generated: Generated, folder: Path) -> None:
    out = generated.case(CHAT)
    (folder / "plain.py").write_text(PLAIN)
    (folder / "coroutines.py").write_text(ASYNC)
    done = mypy(folder, out, "plain.py", "coroutines.py", str(out / "worker.py"), str(out / "chat_pyproc.py"))
    assert (done.returncode, done.stdout) == (0, "")


def test_other_types_do_not_fit(generated: Generated, folder: Path) -> None:
    (folder / "wrong.py").write_text(WRONG)
    done = mypy(folder, generated.case(CHAT), "wrong.py")
    errors = [line for line in done.stdout.splitlines() if "[override]" in line]
    assert done.returncode == 1 and len(errors) == 4, done.stdout
