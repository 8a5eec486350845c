"""Collect the settings by one precedence: flags, then the environment, then the env file, then the defaults.

The env file is that of `--env-file`, else that of `$HEADRACE_ENV_FILE`, else `data/env` if it exists
(`headrace up` writes it). Its lines are `NAME=value`. Blank lines and lines that begin with `#` are skipped,
one pair of quotes around a value is removed, and nothing else is interpreted.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from schemas.errors import SetupError
from schemas.near_names import suggestion
from schemas.validation import problems
from streams.config.settings import ENV_PREFIX, SECTIONS, Settings, variable

ENV_FILE_VARIABLE = "HEADRACE_ENV_FILE"
DEFAULT_ENV_FILE = Path("data/env")
VARIABLES = {variable(name): name for section in SECTIONS for name in section.model_fields}
"""The name in `Settings` by environment variable, section by section."""
# Ignoring one of these would fail open: user ids in plain, or predictions that are kept against the operator's will.
_RENAMED = {
    variable(old): variable(new)
    for old, new in {
        "log_keep_days": "prediction_log_keep_days",
        "log_user_ids": "prediction_log_user_ids",
        "log_hash_key": "prediction_log_hash_key",
        "log_predictions": "prediction_log_keeps_predictions",
    }.items()
}
_URLS = ("postgres_dsn", "redis_url")


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings, the origin of each, and a warning for each unknown name.

    `origins` has an entry for each field: `flag`, `environment`, the env file's path or `default`.
    """

    settings: Settings
    origins: Mapping[str, str]
    warnings: tuple[str, ...]


def load_settings(env_file: Path | None = None, flags: Iterable[str] = ()) -> LoadedSettings:
    """Collect the settings of this process; `flags` are `NAME=VALUE`, names with or without the prefix.

    Raises SetupError when the file is missing or cannot be read, a line or flag is not `NAME=value`, a flag
    names no setting, a setting has its old name, or a value is wrong (one line for each, which quotes no value).
    """
    path = env_file or found_env_file()
    return combine(
        flags=dict(_assignment(flag) for flag in flags),
        environment=os.environ,
        env_file=parse_env_file(_read(path), str(path)) if path else {},
        env_file_name=str(path),
    )


def found_env_file() -> Path | None:
    """The env file of a command that names none; None when there is none."""
    return _named_by_environment() or (DEFAULT_ENV_FILE if DEFAULT_ENV_FILE.is_file() else None)


def combine(
    *,
    flags: Mapping[str, str],
    environment: Mapping[str, str],
    env_file: Mapping[str, str],
    env_file_name: str = "",
) -> LoadedSettings:
    """PURE. Combine the sources by their precedence; raises SetupError as `load_settings` does."""
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    warnings = []
    for source, origin in ((env_file, env_file_name), (environment, "environment"), (flags, "flag")):
        for key, value in source.items():
            if key in VARIABLES:
                if value:
                    name = VARIABLES[key]
                    values[name], origins[name] = value, origin
            elif key in _RENAMED and value:
                raise SetupError(f"{key} ({origin}) was renamed: set {_RENAMED[key]} instead")
            elif origin == "flag":
                raise SetupError(f"--set: {key} is no setting{suggestion(key, VARIABLES, 'headrace config')}")
            elif key.startswith(ENV_PREFIX) and key != ENV_FILE_VARIABLE:
                warnings.append(
                    f"{key} ({origin}) is no setting and is ignored{suggestion(key, VARIABLES, 'headrace config')}"
                )
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise SetupError("\n".join(_lines(error, origins))) from None
    return LoadedSettings(settings, origins, tuple(warnings))


def parse_env_file(text: str, file_name: str) -> dict[str, str]:
    """PURE. Read `NAME=value` lines; raises SetupError with the line's number for anything else."""
    values = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = stripped.partition("=")
        if not equals or not name.isidentifier():
            raise SetupError(f"{file_name}, line {number}: write NAME=value")
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        values[name] = value
    return values


def masked(name: str, value: Any) -> Any:
    """PURE. The value that every output shows: URLs without passwords, other secrets that are set as `***`."""
    if not isinstance(value, SecretStr):
        return value
    if name in _URLS:
        return _without_passwords(value.get_secret_value())
    return "***" if value.get_secret_value() else ""


def _without_passwords(url: str) -> str:
    # By hand, because urllib would rewrite parts of what people should recognise.
    scheme, _, rest = url.partition("://")
    head, question, query = rest.partition("?")
    if "@" in query and ":" in head:
        # Perhaps a password with an unescaped question mark: nothing after the scheme is safe.
        return f"{scheme}://***"
    credentials, at, address = head.rpartition("@")
    user, colon, _ = credentials.partition(":")
    options = "&".join(
        f"{name}=***" if "password" in name.lower() else f"{name}{equals}{value}"
        for name, equals, value in (option.partition("=") for option in query.split("&"))
    )
    return f"{scheme}://{user}{':***' if colon else ''}{at}{address}{question}{options}"


def _named_by_environment() -> Path | None:
    named = os.environ.get(ENV_FILE_VARIABLE)
    return Path(named) if named else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SetupError(f"the env file {path} cannot be read: {reason}") from None


def _assignment(flag: str) -> tuple[str, str]:
    name, equals, value = flag.partition("=")
    if not equals:
        raise SetupError(f"--set {name}: write NAME=VALUE")
    return ENV_PREFIX + name.upper().removeprefix(ENV_PREFIX), value


def _lines(error: ValidationError, origins: Mapping[str, str]) -> Iterable[str]:
    for location, message in problems(error):
        if location:
            name = str(location[0])
            yield f"{variable(name)} ({origins.get(name, 'default')}): {message}"
        else:
            yield message
