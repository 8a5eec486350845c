"""PURE. Types of wire fields with bounds: what passes them can be stored, added up and shown.

A record of a topic may come from anybody. Without these bounds a value that is valid JSON may be refused by
PostgreSQL, overflow a sum, or move the cursor of the terminal that shows it.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, PlainSerializer, StringConstraints

MAX_INT64 = 2**63 - 1
MAX_REASON_CHARACTERS = 1000
MAX_ID_CHARACTERS = 128
ONE_DAY_MS = 86_400_000

# C0 and C1 controls, DEL, line separators, and the controls that reorder text (Unicode, bidirectional overrides).
_UNPRINTABLE = r"\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069"
PLAIN_TEXT = rf"^[^{_UNPRINTABLE}]*$"
_unprintable = re.compile(f"[{_UNPRINTABLE}]")

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_CHARACTERS, pattern=PLAIN_TEXT)]
Label = Annotated[str, StringConstraints(max_length=MAX_ID_CHARACTERS, pattern=PLAIN_TEXT)]
"""As an identifier, or empty."""
Reason = Annotated[str, StringConstraints(max_length=MAX_REASON_CHARACTERS, pattern=PLAIN_TEXT)]

Uri = Annotated[str, StringConstraints(max_length=2048, pattern=PLAIN_TEXT)]

Count = Annotated[int, Field(ge=0, le=MAX_INT64)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
BucketNumber = Annotated[
    str,
    # -2048 to 4096, each number in one spelling.
    StringConstraints(
        pattern=r"^(0|-?[1-9][0-9]{0,2}|-?1[0-9]{3}|-20[0-3][0-9]|-204[0-8]|[23][0-9]{3}|40[0-8][0-9]|409[0-6])$"
    ),
]
MAX_HISTOGRAM_BUCKETS = 2048


def few(max_entries: int) -> BeforeValidator:
    """Refuses a larger object before its entries are read: pydantic reads all, and makes an error of each wrong one."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > max_entries:
            raise ValueError(f"it has {len(value)} entries; at most {max_entries} are taken")
        return value

    return BeforeValidator(check)


_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)


def rfc3339(moment: datetime) -> str:
    """Format a time as the wire contract does: UTC, milliseconds, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _in_range(moment: datetime) -> datetime:
    # Times beyond have no form in UTC, or none in PostgreSQL and Kafka.
    if not _EARLIEST <= moment < _LATEST:
        raise ValueError("a time is between 1970-01-01 and 9999-12-31, UTC")
    return moment


UtcTime = Annotated[
    AwareDatetime,
    # Times arrive as strings; strict mode would accept only datetime objects.
    Field(strict=False),
    AfterValidator(_in_range),
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
]


def printable(text: str, max_characters: int) -> str:
    """The text, cut to a length, with U+FFFD in place of what `PLAIN_TEXT` refuses."""
    if len(text) > max_characters:
        text = text[: max_characters - 1] + "…"
    return _unprintable.sub("\ufffd", text)


def _cut_message(text: str) -> str:
    return printable(text, MAX_REASON_CHARACTERS)


Message = Annotated[
    str, AfterValidator(_cut_message), Field(json_schema_extra={"maxLength": MAX_REASON_CHARACTERS})
]
"""Text for people. It is cut and made printable rather than refused: it may quote what it complains about."""


MAX_DETAIL_CHARACTERS = 200


def _cut_detail(text: str) -> str:
    return printable(text, MAX_DETAIL_CHARACTERS)


ShortMessage = Annotated[
    str, AfterValidator(_cut_detail), Field(json_schema_extra={"maxLength": MAX_DETAIL_CHARACTERS})
]
"""As a message, for one place of many."""


def is_near(moment: datetime, timestamp_ms: int) -> bool:
    """True when a time is within a day of a record's Kafka timestamp."""
    return abs(moment.timestamp() * 1000 - timestamp_ms) <= ONE_DAY_MS
