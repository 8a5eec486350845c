"""Which members of this machine have ended, by processes that do."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest
from structlog.testing import capture_logs

from schemas.errors import BrokerUnavailableError
from streams.config.settings import Settings
from streams.kafka import memberships
from streams.kafka.memberships import Membership, leave_for_ended, members_folder

NO_ERROR, NOT_COORDINATOR, UNKNOWN_MEMBER = 0, 16, 25
JOINS = """
import asyncio, sys
from pathlib import Path
from tests.unit.streams.kafka.test_memberships import joined
async def join():
    membership = await joined(Path(sys.argv[1]), *sys.argv[2:])
    print("joined", flush=True)
    await asyncio.Event().wait()
asyncio.run(join())
"""


class Broker:
    """The admin client's view of a broker; `answers` are the error codes of LeaveGroup by member id."""

    def __init__(self, **answers: int) -> None:
        self.answers = answers
        self.left: list[tuple[str, str]] = []
        self.is_away = False

    @asynccontextmanager
    async def administration(self, _: Settings) -> AsyncIterator[Any]:
        if self.is_away:
            raise BrokerUnavailableError("no broker")
        yield self

    async def find_coordinator(self, group_id: str) -> int:
        assert group_id
        return 1

    async def _send_request(self, request: Any, _: int) -> Any:
        self.left.append((request._group, request._member_id))
        return SimpleNamespace(error_code=self.answers.get(request._member_id, NO_ERROR))


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    found = Broker()
    monkeypatch.setattr(memberships, "administration", found.administration)
    return found


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(artifact_dir=str(tmp_path), kafka_bootstrap="k:1")


def join_request(member_id: str = "") -> JoinGroupRequest:
    return JoinGroupRequest("g", 1, 1, member_id, None, "consumer", [])


async def joined(folder: Path, group_id: str, *member_ids: str, bootstrap: str = "k:1") -> Membership:
    membership = Membership(folder, bootstrap, group_id)
    await membership.open()
    answers = iter(member_ids)

    async def send(_: Any) -> Any:
        return SimpleNamespace(member_id=next(answers))

    for _ in member_ids:
        await membership.noting(send)(join_request())
    return membership


def die_as(settings: Settings, group_id: str, *member_ids: str) -> None:
    """Join in a process, and kill it."""
    with subprocess.Popen(
        [sys.executable, "-c", JOINS, str(members_folder(settings)), group_id, *member_ids],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"joined\n"
        process.kill()


async def test_it_leaves_for_those_whose_process_has_ended(broker: Broker, settings: Settings) -> None:
    """By the member id of the last answer, once; not for those that run."""
    living = await joined(members_folder(settings), "g", "living")
    await asyncio.to_thread(die_as, settings, "g", "a-member-with-a-long-id", "dead")
    with capture_logs() as logs:
        await leave_for_ended(settings)
        await leave_for_ended(settings)
    assert broker.left == [("g", "dead")]
    assert [(each["event"], each["member"]) for each in logs] == [
        ("left the group for a process that has ended", "dead")
    ]
    living.close(has_left=True)
    await leave_for_ended(settings)
    assert broker.left == [("g", "dead")]
    assert list(members_folder(settings).glob("*.json")) == []


async def test_a_member_that_did_not_leave_is_left_for(broker: Broker, settings: Settings) -> None:
    """A process that ended in order while it was about to join."""
    member = await joined(members_folder(settings), "g", "pending")
    member.close(has_left=False)
    await leave_for_ended(settings)
    assert broker.left == [("g", "pending")]


async def test_a_broker_that_is_away_is_asked_by_the_next_process(broker: Broker, settings: Settings) -> None:
    (await joined(members_folder(settings), "g", "dead")).close(has_left=False)
    broker.is_away = True
    with capture_logs() as logs:
        await leave_for_ended(settings)
    assert [each["event"] for each in logs] == ["ended group members have not left"]
    broker.is_away = False
    await leave_for_ended(settings)
    assert broker.left == [("g", "dead")]


async def test_what_cannot_be_left_is_forgotten(broker: Broker, settings: Settings) -> None:
    """A member whose session has ended, one that the broker refuses, another Kafka's, and what never joined."""
    broker.answers = {"expired": UNKNOWN_MEMBER, "refused": NOT_COORDINATOR}
    folder = members_folder(settings)
    for ended in (
        await joined(folder, "g", "expired"),
        await joined(folder, "g", "refused"),
        await joined(folder, "g", "elsewhere", bootstrap="other:1"),
        await joined(folder, "g"),
    ):
        ended.close(has_left=False)
    with capture_logs() as logs:
        await leave_for_ended(settings)
    assert sorted(broker.left) == [("g", "expired"), ("g", "refused")]
    assert [each["event"] for each in logs] == ["ended group member has not left"]
    assert list(folder.glob("*.json")) == []


async def test_no_member_leaves_for_a_copy_of_the_folder(
    broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    """The copies have no locks, and the processes run: the copies are deleted only."""
    living = await joined(members_folder(settings), "g", "living")
    copy = Settings(artifact_dir=str(tmp_path / "copy"), kafka_bootstrap="k:1")
    shutil.copytree(members_folder(settings), members_folder(copy))
    await leave_for_ended(copy)
    assert broker.left == []
    assert list(members_folder(copy).glob("*.json")) == []
    living.close(has_left=False)
    await leave_for_ended(settings)
    assert broker.left == [("g", "living")]


async def test_no_member_leaves_after_a_reboot(
    broker: Broker, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session has ended, or the disk is that of a copied machine: the file is deleted only."""
    (await joined(members_folder(settings), "g", "before")).close(has_left=False)
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("another\n")
    monkeypatch.setattr(memberships, "_KERNEL_BOOT_ID", boot_id)
    await leave_for_ended(settings)
    assert broker.left == []
    assert list(members_folder(settings).glob("*.json")) == []


async def test_a_kernel_without_a_boot_id_is_taken(
    broker: Broker, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device and the inode identify the file then."""
    monkeypatch.setattr(memberships, "_KERNEL_BOOT_ID", tmp_path / "missing")
    (await joined(members_folder(settings), "g", "dead")).close(has_left=False)
    await leave_for_ended(settings)
    assert broker.left == [("g", "dead")]


async def test_only_answers_to_a_join_are_noted(broker: Broker, settings: Settings) -> None:
    member = await joined(members_folder(settings), "g", "me")

    async def send(_: Any) -> Any:
        return SimpleNamespace(member_id="other")

    await member.noting(send)(HeartbeatRequest("g", 1, "me"))
    member.close(has_left=False)
    await leave_for_ended(settings)
    assert broker.left == [("g", "me")]


async def test_it_goes_on_without_a_folder(broker: Broker, tmp_path: Path) -> None:
    """The folder is a file: nothing is recorded, and nothing is found."""
    (tmp_path / "members").touch()
    settings = Settings(artifact_dir=str(tmp_path))
    with capture_logs() as logs:
        member = await joined(members_folder(settings), "g", "me")
        await leave_for_ended(settings)
        member.close(has_left=True)
    assert [each["event"] for each in logs] == ["group membership is not recorded"]
    assert broker.left == []
