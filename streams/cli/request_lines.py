"""Requests as JSON lines: `{"user_id": …, "input": {…}}`, optionally with `deadline_ms` and `request_id`."""

import asyncio
import os
import stat
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass

from schemas.errors import InvalidRequestError, MalformedRecordError
from schemas.events import JsonObject, PredictRequest
from schemas.wire import read_object
from streams.clients.predict_client import check_request

_CHUNK_BYTES = 64 * 1024
_CHUNKS_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Defaults:
    """The fields of a line that does not have them itself."""

    model_name: str
    user_id: str | None
    deadline_ms: int | None

    def fields(self) -> JsonObject:
        """The defaults as fields of a request."""
        user = {} if self.user_id is None else {"user_id": self.user_id}
        return {"model_name": self.model_name, "deadline_ms": self.deadline_ms} | user


def parse_line(line: bytes, number: int, defaults: Defaults) -> PredictRequest:
    """PURE, but for a fresh request_id. Raises InvalidRequestError that begins with the line's number."""
    try:
        request = check_request(defaults.fields() | read_object(line))
    except (InvalidRequestError, MalformedRecordError) as error:
        raise InvalidRequestError(f"line {number}: {error}") from None
    if request.model_name != defaults.model_name:
        raise InvalidRequestError(
            f"line {number}: its model is {request.model_name}, not {defaults.model_name}"
        )
    return request


async def parse_lines(lines: AsyncIterator[bytes], defaults: Defaults) -> AsyncIterator[PredictRequest]:
    """Yield the request of each line that is not blank; raises as `parse_line` does."""
    number = 0
    async for line in lines:
        number += 1
        if line.strip():
            yield parse_line(line, number, defaults)


async def read_lines(descriptor: int) -> AsyncIterator[bytes]:
    """Yield the lines of a file, pipe or terminal, each as soon as it is complete."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue(_CHUNKS_AHEAD)

    def read() -> None:
        chunk = b"start"
        while chunk:
            # A buffered reader would hold its lock during a blocked read, and block the interpreter's exit.
            chunk = os.read(descriptor, _CHUNK_BYTES)
            asyncio.run_coroutine_threadsafe(chunks.put(chunk), loop).result()

    # A daemon thread, because nothing can interrupt its read of an idle pipe.
    threading.Thread(target=read, name="read-lines", daemon=True).start()
    rest = b""
    while chunk := await chunks.get():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest


def count_lines(descriptor: int) -> int | None:
    """The number of lines left in a regular file; None for a pipe or terminal, which cannot be read twice."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return None
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    count, last = 0, b"\n"
    while chunk := os.read(descriptor, _CHUNK_BYTES):
        count, last = count + chunk.count(b"\n"), chunk
    os.lseek(descriptor, position, os.SEEK_SET)
    return count + (not last.endswith(b"\n"))
