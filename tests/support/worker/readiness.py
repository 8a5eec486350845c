"""What `/readyz` of a worker or its supervisor says."""

from typing import Any

import httpx


async def readiness(port: int) -> Any:
    """The document, whatever it says."""
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"http://127.0.0.1:{port}/readyz")).json()


async def until_ready(port: int) -> None:
    """Ask until it is ready; callers have a deadline."""
    while not (await readiness(port))["ready"]:
        pass
