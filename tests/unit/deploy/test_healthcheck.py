"""What a container says of its worker, by a program that is run by itself."""

import asyncio
import os
import sys
from pathlib import Path

from streams.process.http import Web

PROGRAM = Path(__file__).parents[3] / "deploy" / "healthcheck.py"


async def check(port: str) -> tuple[int, str]:
    """Exit code, and all that was printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", PROGRAM),
        env={**os.environ, "HEADRACE_HTTP_PORT": port},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    return process.returncode or 0, printed.decode()


async def test_it_says_whether_the_worker_is_ready() -> None:
    """And which condition does not hold, for who inspects the container."""
    ready = False
    web = Web()
    web.ready_when("all is well", lambda: ready)
    async with web.serving("127.0.0.1", 0) as port:
        code, printed = await check(str(port))
        assert code == 1
        assert '"all is well": false' in printed
        ready = True
        assert (await check(str(port)))[0] == 0
    code, printed = await check(str(port))
    assert code == 1
    assert "nobody answers" in printed


async def test_without_a_port_it_says_what_to_set() -> None:
    """A worker without HTTP is no healthy one: nobody knows."""
    code, printed = await check("")
    assert code == 1
    assert "set HEADRACE_HTTP_PORT" in printed
