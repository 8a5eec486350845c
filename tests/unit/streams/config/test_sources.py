"""streams/config/sources.py: one precedence, readable refusals, no secret shown."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from schemas.errors import SetupError
from streams.config.settings import Settings
from streams.config.sources import VARIABLES, LoadedSettings, combine, load_settings, masked, parse_env_file

BOOTSTRAP = "HEADRACE_KAFKA_BOOTSTRAP"
PASSWORD = "hunter2-correct-horse"  # long and odd enough to be found wherever it leaks


def of(
    *,
    flags: dict[str, str] | None = None,
    environment: dict[str, str] | None = None,
    env_file: dict[str, str] | None = None,
) -> LoadedSettings:
    return combine(
        flags=flags or {}, environment=environment or {}, env_file=env_file or {}, env_file_name="some/env"
    )


def test_flags_beat_environment_beats_file_beats_default() -> None:
    """Each source is stronger than those after it; the origin names the source."""
    sources = {
        "env_file": ({BOOTSTRAP: "file:1"}, "file:1", "some/env"),
        "environment": ({BOOTSTRAP: "environment:1"}, "environment:1", "environment"),
        "flags": ({BOOTSTRAP: "flag:1"}, "flag:1", "flag"),
    }
    given_sources = {}
    assert of().origins["kafka_bootstrap"] == "default"
    for source, (values, value, origin) in sources.items():
        given_sources[source] = values
        loaded = of(**given_sources)
        assert (loaded.settings.kafka_bootstrap, loaded.origins["kafka_bootstrap"]) == (value, origin)


def test_an_empty_value_is_no_value() -> None:
    """Compose files pass unset variables as empty ones; these do not hide weaker sources."""
    loaded = of(environment={BOOTSTRAP: ""}, env_file={BOOTSTRAP: "file:1"})
    assert loaded.settings.kafka_bootstrap == "file:1"


def test_names_without_the_prefix_are_not_ours() -> None:
    """LOG_LEVEL of another program is ignored without a warning."""
    loaded = of(environment={"LOG_LEVEL": "debug", "log_level": "debug"})
    assert loaded.settings.log_level == "info"
    assert loaded.warnings == ()


def test_an_unknown_name_warns_with_the_nearest_one() -> None:
    """The warning names the misspelt variable and the closest setting."""
    (warning,) = of(environment={"HEADRACE_KAFKA_BOTSTRAP": "x:1"}).warnings
    assert "HEADRACE_KAFKA_BOTSTRAP (environment)" in warning
    assert f"did you mean {BOOTSTRAP}?" in warning


def test_an_unknown_flag_is_refused() -> None:
    """A flag is typed by hand: a misspelt one stops the command."""
    with pytest.raises(SetupError, match="did you mean HEADRACE_LOG_LEVEL"):
        load_settings(flags=["log_levle=debug"])


@pytest.mark.parametrize("source", ["environment", "env_file", "flags"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LOG_KEEP_DAYS", "PREDICTION_LOG_KEEP_DAYS"),
        ("LOG_USER_IDS", "PREDICTION_LOG_USER_IDS"),
        ("LOG_HASH_KEY", "PREDICTION_LOG_HASH_KEY"),
        ("LOG_PREDICTIONS", "PREDICTION_LOG_KEEPS_PREDICTIONS"),
    ],
)
def test_the_old_name_of_a_renamed_setting_is_refused(source: str, old: str, new: str) -> None:
    """Ignored with a warning, LOG_USER_IDS=hashed would write user ids in plain."""
    assert f"HEADRACE_{new}" in VARIABLES
    with pytest.raises(SetupError, match=rf"^HEADRACE_{old} \(.*: set HEADRACE_{new} instead$") as refusal:
        of(**{source: {f"HEADRACE_{old}": PASSWORD}})
    assert PASSWORD not in str(refusal.value)


def test_an_empty_value_of_an_old_name_is_only_a_warning() -> None:
    """Compose files pass unset variables as empty ones."""
    (warning,) = of(environment={"HEADRACE_LOG_USER_IDS": ""}).warnings
    assert "HEADRACE_LOG_USER_IDS" in warning


def test_each_wrong_value_is_one_line_that_names_its_variable_and_origin() -> None:
    """The refusal names all wrong values, each with its variable."""
    with pytest.raises(SetupError) as refusal:
        of(
            environment={"HEADRACE_ONNX_THREADS": "many", "HEADRACE_LOG_LEVEL": "loud"},
            env_file={"HEADRACE_SHUTDOWN_SECONDS": "-1"},
        )
    lines = str(refusal.value).splitlines()
    assert len(lines) == 3
    starts = ("HEADRACE_ONNX_THREADS (env", "HEADRACE_LOG_LEVEL (env", "HEADRACE_SHUTDOWN_SECONDS (some/env)")
    assert all(any(line.startswith(start) for line in lines) for start in starts)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"postgresql://u:{PASSWORD}@db.example:5432/x", "postgresql://u:***@db.example:5432/x"),
        (f"postgresql://u:{PASSWORD}@/@b@h:1/x", "postgresql://u:***@h:1/x"),
        (f"postgresql://h/x?user=u&password={PASSWORD}", "postgresql://h/x?user=u&password=***"),
        (f"postgresql://h/x?sslpassword={PASSWORD}&a=1", "postgresql://h/x?sslpassword=***&a=1"),
        ("postgresql:///x?host=/run/pg", "postgresql:///x?host=/run/pg"),
        (f"redis://:{PASSWORD}@cache:6379/0", "redis://:***@cache:6379/0"),
        (f"redis://u:{PASSWORD}?@cache/0", "redis://***"),
        (f"redis://u:@{PASSWORD}?@cache/0", "redis://***"),
        ("redis://cache:6379/0", "redis://cache:6379/0"),
    ],
)
def test_a_shown_url_keeps_its_host_and_hides_its_password(url: str, expected: str) -> None:
    """The server is recognisable; the password is masked, even where it is not escaped."""
    settings = Settings.model_construct(redis_url=SecretStr(url))
    assert masked("redis_url", settings.redis_url) == expected


@given(
    st.text(min_size=8, alphabet=st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"))
)
def test_no_password_is_ever_shown(password: str) -> None:
    """The masked URL does not hold the password, whatever its characters."""
    assert password not in str(masked("redis_url", SecretStr(f"redis://someone:{password}@h:6379/0")))
    assert masked("kafka_sasl_password", SecretStr(password)) == "***"


def test_env_file_lines() -> None:
    """Comments and blank lines are skipped, one pair of quotes goes, everything else stays."""
    text = "# comment\n\nA=1\nB='x y'\nC=\"q\"\nD=a=b # no comment\nE=\n F = no\n".replace(" F = no\n", "")
    assert parse_env_file(text, "f") == {"A": "1", "B": "x y", "C": "q", "D": "a=b # no comment", "E": ""}


def test_a_wrong_line_is_named_without_its_content() -> None:
    """The message has the number of the line, not its text, which may hold a secret."""
    with pytest.raises(SetupError, match=r"some/env, line 2") as refusal:
        parse_env_file(f"A=1\n{PASSWORD}\n", "some/env")
    assert PASSWORD not in str(refusal.value)


def test_the_env_file_is_chosen_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--env-file, else $HEADRACE_ENV_FILE, else data/env in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(BOOTSTRAP, raising=False)
    monkeypatch.delenv("HEADRACE_ENV_FILE", raising=False)
    assert load_settings().origins["kafka_bootstrap"] == "default"
    for name in ("data/env", "named", "flag"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{BOOTSTRAP}={name}:1\n")
    assert load_settings().settings.kafka_bootstrap == "data/env:1"
    monkeypatch.setenv("HEADRACE_ENV_FILE", "named")
    assert load_settings().settings.kafka_bootstrap == "named:1"
    assert load_settings(Path("flag")).settings.kafka_bootstrap == "flag:1"
    assert load_settings(Path("flag")).origins["kafka_bootstrap"] == "flag"
    assert load_settings().warnings == ()


def test_a_missing_env_file_is_a_refusal(tmp_path: Path) -> None:
    """A missing file that was named explicitly is an error."""
    with pytest.raises(SetupError, match="cannot be read: No such file"):
        load_settings(tmp_path / "absent")
