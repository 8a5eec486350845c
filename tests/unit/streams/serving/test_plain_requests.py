"""streams/serving/plain_requests.py: whole columns give the same requests as one record at a time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import HeadraceError
from schemas.json_schema import Explanations
from schemas.models import StalePolicy
from streams.kafka.offset_tracker import Record
from streams.serving.plain_requests import COLUMN_RECORDS, MAX_PASSES, MIN_RECORDS, plain_requests
from streams.serving.requests import RequestContext, Requests, parse, route_and_validate
from streams.serving.route_table import ServedVersion, ServingTable
from tests.support.models.served_versions import RecordingBackend, record_of, served_model, served_version

MAX_BYTES = 1000
NOW_UNIX_MS = 1000.0
SMALL = {"properties": {"x": {"maximum": 10}}}


def version_of(model_name: str, version: str, **fields: Any) -> ServedVersion:
    return served_version(model_name, version, RecordingBackend(), SMALL, **fields)


TABLE = ServingTable(
    epoch=1,
    models={
        "split": served_model("split", 4, version_of("split", "v1"), version_of("split", "v2")),
        "whole": served_model("whole", 7, version_of("whole", "v1", stale_policy=StalePolicy.FAIL)),
        "idle": served_model("idle", 1, version_of("idle", "v1"), active=False),
    },
)

USERS = st.sampled_from(["u1", "u2", "ü", "u4", "u5"])
GOOD = st.fixed_dictionaries(
    {
        "request_id": st.sampled_from(["r1", "r2", "é"]),
        "model_name": st.sampled_from(["split", "whole"]),
        "user_id": USERS,
        "input": st.fixed_dictionaries({"x": st.integers(0, 10) | st.just("text")}),
    },
    # A record has the timestamp 900.
    optional={"deadline_ms": st.sampled_from([101, 500])},
)
WRONG = st.fixed_dictionaries(
    {},
    optional={
        "request_id": st.sampled_from(["", "tab\t", "r" * 200, 5, None]),
        "model_name": st.sampled_from(["idle", "unknown", "not a name", 1]),
        "input": st.sampled_from(
            [{"x": 11}, {"x": 2**70}, {"y": "y" * 1000}, [], {"x": json.loads("[" * 300 + "]" * 300)}]
        ),
        "deadline_ms": st.sampled_from([1, 100, 0, "soon", None]),
        "more": st.just(1),
    },
)
BROKEN = st.sampled_from([None, b"", b"{", b"null", b"\xff", b'{"request_id": "r", "request_id": "s"}'])


@dataclass(frozen=True)
class Sent:
    """A record's value, and whether it must be taken as plain."""

    value: bytes | None
    is_plain: bool


def good(document: dict[str, Any]) -> Sent:
    return Sent(json.dumps(document).encode(), is_plain=True)


RECORDS = st.lists(
    GOOD.map(good)
    | st.builds(
        lambda document, wrong: Sent(json.dumps(document | wrong).encode(), is_plain=False), GOOD, WRONG
    )
    | BROKEN.map(lambda value: Sent(value, is_plain=False)),
    max_size=24,
)


def one_by_one(records: Sequence[Record], *, stale: bool) -> Requests:
    """The requests of those records that have no error."""
    requests: Requests = {}
    for record in records:
        context = RequestContext(record)
        try:
            parse(context, TABLE.models, MAX_BYTES)
            version = route_and_validate(
                context, TABLE, NOW_UNIX_MS, stale=stale, explanations=Explanations()
            )
        except HeadraceError:
            continue
        requests.setdefault(version, []).append(context)
    return requests


Fields = dict[int, tuple[Any, ...]]


def fields_of(requests: Requests) -> dict[ServedVersion, Fields]:
    """All fields of the requests, by the offset of their record and in their order."""
    return {
        version: {request.record.offset: msgspec.structs.astuple(request) for request in of_version}
        for version, of_version in requests.items()
    }


@given(RECORDS, st.booleans())
def test_columns_and_single_records_agree(sent: list[Sent], stale: bool) -> None:
    """Every record is a plain request, as it is when it is taken by itself, or is left over; each in its order."""
    records = [record_of(each.value, offset=at, timestamp=900) for at, each in enumerate(sent)]
    with patch("streams.serving.plain_requests.COLUMN_RECORDS", 10):
        plain, others = plain_requests(records, TABLE, MAX_BYTES, NOW_UNIX_MS, stale=stale)
    both = fields_of(plain)
    for version, fields in fields_of(one_by_one(others, stale=stale)).items():
        both.setdefault(version, {}).update(fields)
    assert both == fields_of(one_by_one(records, stale=stale))
    taken = [offset for fields in fields_of(plain).values() for offset in fields]
    assert sorted([*taken, *(record.offset for record in others)]) == list(range(len(records)))
    for of_version in plain.values():
        offsets = [request.record.offset for request in of_version]
        assert offsets == sorted(offsets)
    if not stale and len(records) >= MIN_RECORDS:
        assert {at for at, each in enumerate(sent) if each.is_plain} <= set(taken)


def test_many_models_and_many_versions_are_left_over() -> None:
    """Each of them would take a pass over the column."""
    names = [f"m{number}" for number in range(MAX_PASSES + 1)]
    many = ServingTable(
        epoch=1, models={name: served_model(name, 1, version_of(name, "v1")) for name in names}
    )
    split = served_model("m0", 1, *(version_of("m0", name) for name in names))
    for table, asked in ((many, names), (ServingTable(epoch=1, models={"m0": split}), ["m0"])):
        records = [
            record_of(
                json.dumps(
                    {
                        "request_id": "r",
                        "model_name": asked[at % len(asked)],
                        "user_id": f"u{at}",
                        "input": {},
                    }
                ).encode(),
                offset=at,
            )
            for at in range(2 * COLUMN_RECORDS)
        ]
        assert plain_requests(records, table, MAX_BYTES, NOW_UNIX_MS, stale=False) == ({}, records)
