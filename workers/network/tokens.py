"""Bearer tokens of hosts: those that a setting has, and those of files, which change while a worker runs.

TorchServe makes new keys each hour, and platforms rotate the tokens that they put into files. So a file is read again
when it has changed.
"""

import json
import os
import time
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path

import httpx
import structlog

log = structlog.get_logger()

LOOK_EACH_SECONDS = 1.0
MAX_FILE_BYTES = 64 * 1024
FILE_MARK = "@"
"""A token that begins with it is the path of a file."""


def token_in(text: str) -> str:
    """PURE. The token in a file: the text itself, or the key for predictions of a `key_file.json` of TorchServe.

    "" when it is none that a header may have.
    """
    token = text.strip()
    if token.startswith("{"):
        try:
            keys = json.loads(token)
            token = keys["inference"]["key"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return ""
    return token if isinstance(token, str) and token.isascii() and token.isprintable() else ""


class BearerToken:
    """A token, or the one that a file has now; "" while the file cannot be read."""

    def __init__(self, given: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = Path(given.removeprefix(FILE_MARK)) if given.startswith(FILE_MARK) else None
        self._token = "" if self._path else given
        self._clock = clock
        self._look_at = 0.0
        self._version: tuple[int, ...] = ()

    def current(self) -> str:
        """The token. Looks at the file at most once in `LOOK_EACH_SECONDS`."""
        now = self._clock()
        if self._path is not None and now >= self._look_at:
            self._look_at = now + LOOK_EACH_SECONDS
            self._look(self._path)
        return self._token

    def _look(self, path: Path) -> None:
        try:
            found = os.stat(path)  # noqa: PTH116  # a third of the time of Path.stat
            version = (found.st_mtime_ns, found.st_size, found.st_ino)
            if version == self._version:
                return
            with path.open(encoding="utf-8") as file:
                token = token_in(file.read(MAX_FILE_BYTES))
        except (OSError, UnicodeDecodeError) as error:
            if self._version != (0,):
                reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
                log.warning("token file cannot be read", path=str(path), reason=reason)
            # What it had is kept: while a file is replaced there may be none for a moment.
            self._version = (0,)
            return
        self._version = version
        if token:
            self._token = token
            log.info("token file read", path=str(path))
        else:
            log.warning("token file has no token", path=str(path))


@cache
def bearer_token(given: str) -> BearerToken:
    """The token of an entry of a setting, one for all connections."""
    return BearerToken(given)


class BearerAuth(httpx.Auth):
    """Sends a token with each request, as it is then."""

    def __init__(self, token: BearerToken) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """As httpx calls it."""
        if token := self._token.current():
            request.headers["authorization"] = f"Bearer {token}"
        yield request
