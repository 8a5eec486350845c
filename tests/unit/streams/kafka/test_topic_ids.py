"""The ids of topics, of brokers that have them and of those that do not."""

from io import BytesIO
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from streams.kafka.topic_ids import read_topic_ids

ID = UUID("4c8b8f0e-6a6b-4f3e-9d0a-0c1d2e3f4a5b")
OLD_BROKER, NEW_BROKER = {3: (0, 9)}, {3: (0, 13)}


async def ids_of(versions: dict[int, tuple[int, int]], *topics: tuple[Any, ...]) -> dict[str, str]:
    """What is read when a broker with these versions answers with these topics."""

    async def send(node: int, request: Any) -> Any:
        assert node == 5
        prepared = request.prepare(versions)
        assert prepared.encode()
        kind = prepared.RESPONSE_TYPE
        if prepared.API_VERSION == 1:
            return kind([], 0, list(topics))
        whole: Any = [(error, name, topic_id, False, [], 0, {}) for error, name, topic_id in topics]
        return kind.decode(BytesIO(kind(0, [], None, 0, whole, 0, {}).encode()))

    return await read_topic_ids(SimpleNamespace(get_random_node=lambda: 5), send, ["a", "b"])


async def test_ids_are_read() -> None:
    """A topic that is not there is left out; one that we may not describe has no id."""
    none = UUID(int=0)
    assert await ids_of(NEW_BROKER, (0, "a", ID), (3, "b", none)) == {"a": str(ID)}
    assert await ids_of(NEW_BROKER, (0, "a", none), (29, "b", none)) == {"a": "", "b": ""}


async def test_an_old_broker_has_no_ids() -> None:
    """Before Kafka 2.8 metadata does not carry them."""
    assert await ids_of(OLD_BROKER, (0, "a", False, []), (3, "b", False, [])) == {"a": ""}
