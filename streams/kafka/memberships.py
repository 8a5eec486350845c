# ruff: noqa: SLF001  # aiokafka's clients send a LeaveGroupRequest by private names only
"""Which group members are processes of this machine, so that one whose process has ended leaves its group at once.

Kafka notices the end of a process by its silence, and keeps its partitions for the session timeout. Here each process
has a file with its member id, and a lock on the file that the kernel drops when the process ends, whatever ends it. A
process that starts on the same machine finds the files without a lock, and leaves the groups for their members. A file
also says where it was written: in a copy of the folder no file has a lock, though the processes may run.

A process that is paused, or whose machine is not reached, keeps its lock and its membership. A process that has ended
cannot commit or answer any more, so nothing needs to be fenced. Static membership (`group.instance.id`) would give the
new process the place of the old one too, but then an orderly end would leave the partitions idle, two processes of one
name would end each other, and aiokafka sends heartbeats and commits without the instance id.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO

import msgspec
import structlog
from aiokafka.errors import KafkaError, UnknownMemberIdError, for_code
from aiokafka.protocol.group import JoinGroupRequest, LeaveGroupRequest

from schemas.errors import BrokerUnavailableError
from streams.config.settings import Settings
from streams.kafka.topics import administration
from streams.process.file_locks import claimed_file, folder_lock, locked_file

log = structlog.get_logger("streams.partitions")

LEAVE_SECONDS = 5.0
_SUFFIX = ".json"
_KERNEL_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Place(msgspec.Struct, frozen=True):
    """Where a file was written; a copy of the file, and the file after a reboot, have another place."""

    kernel_boot_id: str
    device: int
    inode: int


class Member(msgspec.Struct, frozen=True):
    """A member of a consumer group; `bootstrap` says of which Kafka, `place` is that of its file."""

    bootstrap: str
    group_id: str
    member_id: str
    place: Place


def members_folder(settings: Settings) -> Path:
    """The folder of the files, which the processes of a machine share."""
    return settings.artifact_folder / "members"


class Membership:
    """The file of this process's member of one group; without a folder that can be written there is none."""

    def __init__(self, folder: Path, bootstrap: str, group_id: str) -> None:
        self._folder = folder
        self._bootstrap = bootstrap
        self._group_id = group_id
        self._path = folder / f"{token_hex(8)}{_SUFFIX}"
        self._file: BinaryIO | None = None

    async def open(self) -> None:
        """Create the file; a group that is joined after that is in it."""
        try:
            self._file = await asyncio.to_thread(self._create)
        except OSError as error:
            log.warning("group membership is not recorded", folder=str(self._folder), reason=str(error))

    def noting(self, send: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        """`send` of a group coordinator, which also writes down the member id of each answer to a JoinGroup.

        The first answer has the id before the broker counts the member (KIP-394).
        """

        async def sent(request: Any) -> Any:
            response = await send(request)
            if isinstance(request, JoinGroupRequest) and response.member_id:
                self._joined(response.member_id)
            return response

        return sent

    def close(self, *, has_left: bool) -> None:
        """Delete the file if the member has left its group."""
        if self._file is not None:
            if has_left:
                with suppress(OSError):
                    self._path.unlink()
            self._file.close()
            self._file = None

    def _create(self) -> BinaryIO:
        with folder_lock(self._folder):
            return locked_file(self._path)

    def _joined(self, member_id: str) -> None:
        if self._file is None:
            return
        with suppress(OSError):
            member = Member(self._bootstrap, self._group_id, member_id, _place(self._file))
            note = msgspec.json.encode(member)
            os.pwrite(self._file.fileno(), note, 0)
            self._file.truncate(len(note))


async def leave_for_ended(settings: Settings) -> None:
    """Leave the groups for the members of this machine whose processes have ended.

    Where that is not possible, the group waits for the session timeout as it would otherwise.
    """
    try:
        claimed = await asyncio.to_thread(_claim_ended, members_folder(settings))
    except OSError as error:
        log.warning("ended group members not looked for", reason=str(error))
        return
    members = [each.member for each in claimed if each.member is not None]
    try:
        if members:
            async with asyncio.timeout(LEAVE_SECONDS), administration(settings) as admin:
                for member in members:
                    await _leave(admin, settings.kafka_bootstrap, member)
    except (BrokerUnavailableError, TimeoutError) as error:
        log.warning("ended group members have not left", reason=str(error) or type(error).__name__)
    else:
        for each in claimed:
            with suppress(OSError):
                each.path.unlink()
    finally:
        for each in claimed:
            each.file.close()


@dataclass(frozen=True, slots=True)
class _Claimed:
    """The file of a process that has ended, locked against others that look for it.

    `member` is None if the process never joined, or wrote the file in another place.
    """

    path: Path
    file: BinaryIO
    member: Member | None


def _claim_ended(folder: Path) -> list[_Claimed]:
    claimed: list[_Claimed] = []
    if not folder.is_dir():
        return claimed
    with folder_lock(folder):
        for path in folder.glob(f"*{_SUFFIX}"):
            # A process that ends in order deletes its file without the folder's lock.
            with suppress(FileNotFoundError):
                file = claimed_file(path)
                if file is not None:
                    claimed.append(_Claimed(path, file, _read(file)))
    return claimed


def _read(file: BinaryIO) -> Member | None:
    try:
        member = msgspec.json.decode(file.read(), type=Member)
    except msgspec.DecodeError:
        return None
    # The process of a copied file may run. After a reboot the session of the member has ended.
    return member if member.place == _place(file) else None


def _place(file: BinaryIO) -> Place:
    status = os.fstat(file.fileno())
    return Place(_kernel_boot_id(), status.st_dev, status.st_ino)


def _kernel_boot_id() -> str:
    """The id of this start of the machine; "" where the kernel has none."""
    try:
        return _KERNEL_BOOT_ID.read_text().strip()
    except OSError:
        return ""


async def _leave(admin: Any, bootstrap: str, member: Member) -> None:
    # The file of another Kafka is only forgotten: its group waits for the session timeout.
    if member.bootstrap != bootstrap:
        return
    try:
        coordinator = await admin.find_coordinator(member.group_id)
        left = await admin._send_request(LeaveGroupRequest(member.group_id, member.member_id), coordinator)
        if left.error_code:
            raise for_code(left.error_code)
    except UnknownMemberIdError:
        # Its session has ended, or it left.
        return
    except KafkaError as error:
        reason = str(error) or type(error).__name__
        log.warning("ended group member has not left", group=member.group_id, reason=reason)
    else:
        log.info(
            "left the group for a process that has ended", group=member.group_id, member=member.member_id
        )
