"""A model server that fails as a request's input says, in each protocol; otherwise it doubles."""

import asyncio
from asyncio import StreamWriter
from collections.abc import Callable
from enum import IntEnum

import orjson

from tests.support.servers.http_server import METADATA, HttpRequest, answer, asked, doubled, predicted

BIG_BYTES = 100 * 1024 * 1024
SLOW_SECONDS = 0.2


class Fault(IntEnum):
    """The inputs that it fails for; `x` above them doubles."""

    SLOW = 1
    HANGS = 2
    HANGS_AFTER_HEADERS = 3
    DRIPS = 4
    CLOSES_EARLY = 5
    CLOSES_AT_ONCE = 6
    ANSWERS_500 = 7
    ANSWERS_503 = 8
    ANSWERS_429 = 9
    WRONG_JSON = 10
    NAN = 11
    TOO_MANY_PREDICTIONS = 12
    NO_PREDICTIONS = 13
    BIG_AS_TOLD = 14
    BIG_UNTOLD = 15
    REDIRECTS = 16
    NO_HTTP = 17


class BrokenServer:
    """`elsewhere` is where it redirects to.

    `well` is whether it doubles whatever it is asked, `down` how it fails whatever that is.
    """

    def __init__(self, elsewhere: str = "http://127.0.0.1:9") -> None:
        self.well = False
        self.down: Fault | None = None
        self.elsewhere = elsewhere
        self.asked: list[int] = []
        """Each `x` that it was asked for, from the first."""
        self.while_big: Callable[[], object] = lambda: None
        """Called again and again while it sends a big answer."""

    async def handle(self, request: HttpRequest, writer: StreamWriter) -> bool | None:
        if request.method == "GET":
            writer.write(answer(METADATA))
            return None
        xs = asked(request)
        self.asked += xs
        fault = self.down or next((Fault(x) for x in xs if x in list(Fault)), None)
        if self.well or fault is None:
            writer.write(answer(doubled(request)))
            return None
        return await self._fail(fault, request, writer)

    async def _fail(self, fault: Fault, request: HttpRequest, writer: StreamWriter) -> bool | None:
        whole = answer(doubled(request))
        head, _, body = whole.partition(b"\r\n\r\n")
        match fault:
            case Fault.SLOW:
                await asyncio.sleep(SLOW_SECONDS)
                writer.write(whole)
            case Fault.HANGS:
                await asyncio.Event().wait()
            case Fault.HANGS_AFTER_HEADERS:
                writer.write(head + b"\r\n\r\n")
                await asyncio.Event().wait()
            case Fault.DRIPS:
                dripped = answer(b" " * 60 + body)
                start = dripped.index(b"\r\n\r\n")
                writer.write(dripped[:start])
                for place in range(start, len(dripped)):
                    writer.write(dripped[place : place + 1])
                    await asyncio.sleep(1)
            case Fault.CLOSES_EARLY:
                writer.write(whole[:-1])
                return False
            case Fault.CLOSES_AT_ONCE:
                return False
            case Fault.ANSWERS_500 | Fault.ANSWERS_503 | Fault.ANSWERS_429:
                writer.write(answer({"error": "out of order"}, int(fault.name[-3:])))
            case Fault.WRONG_JSON:
                writer.write(answer(b"{" + body))
            case Fault.NAN:
                rows = [None if x == fault or self.down else 2 * x for x in asked(request)]
                nulls = orjson.dumps(predicted(request, rows))
                writer.write(answer(nulls.replace(b"null", b"NaN")))
            case Fault.TOO_MANY_PREDICTIONS:
                writer.write(answer(predicted(request, [2 * fault] * (len(asked(request)) + 1))))
            case Fault.NO_PREDICTIONS:
                writer.write(answer(b""))
            case Fault.BIG_AS_TOLD:
                await self._send_big(writer, f"content-length: {BIG_BYTES}\r\n")
            case Fault.BIG_UNTOLD:
                await self._send_big(writer, "")
                return False
            case Fault.REDIRECTS:
                location = f"location: {self.elsewhere}{request.path}\r\n"
                writer.write(answer(b"", 307, location))
            case Fault.NO_HTTP:
                writer.write(b"SSH-2.0-server\r\n\r\n")
        return None

    async def _send_big(self, writer: StreamWriter, headers: str) -> None:
        writer.write(f"HTTP/1.1 200 X\r\n{headers}\r\n".encode())
        piece = b" " * (1024 * 1024)
        for _ in range(BIG_BYTES // len(piece)):
            writer.write(piece)
            await writer.drain()
            self.while_big()
