"""What the sections of the settings are made of: their base class, types with units, and checks of URLs."""

from typing import Annotated, ClassVar
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr

Positive = Annotated[int, Field(gt=0)]
Records = Annotated[int, Field(gt=0, json_schema_extra={"unit": "records"})]
Bytes = Annotated[int, Field(gt=0, json_schema_extra={"unit": "bytes"})]
Seconds = Annotated[float, Field(gt=0, json_schema_extra={"unit": "seconds"})]
Hours = Annotated[int, Field(gt=0, json_schema_extra={"unit": "hours"})]
Days = Annotated[int, Field(gt=0, json_schema_extra={"unit": "days"})]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    """Settings that belong together, under one title in `headrace config` and docs/reference/settings.md.

    `Settings` inherits all sections, so that `HEADRACE_TOPIC_REQUESTS` is `settings.topic_requests`.
    """

    # No section is validated by itself, so none builds a validator; this saves 10 ms at the start of each command.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, defer_build=True)

    title: ClassVar[str]


def split_url(secret: SecretStr, *schemes: str) -> SplitResult:
    """Split a URL that may hold a password. Raises ValueError, whose message quotes none of the URL."""
    try:
        parts = urlsplit(secret.get_secret_value())
    except ValueError:
        raise ValueError("not a URL; write SCHEME://HOST:PORT/NAME") from None
    if parts.scheme not in schemes:
        raise ValueError(f"the URL must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    return parts


def check_base_url(url: str | None) -> str | None:
    """Return an http(s) URL of a host, port and path; raises ValueError for a user, a query or a fragment."""
    if url is not None:
        parts = split_url(SecretStr(url), "http", "https")
        if not parts.hostname or parts.username is not None or parts.query or parts.fragment:
            raise ValueError("write http(s)://HOST[:PORT], without a user and a query")
        try:
            _ = parts.port
        except ValueError:
            raise ValueError("the port must be a number up to 65535") from None
    return url


def listed(setting: str) -> tuple[str, ...]:
    """PURE. The entries of a comma-separated setting, without blanks and empty entries."""
    return tuple(entry.strip() for entry in setting.split(",") if entry.strip())
