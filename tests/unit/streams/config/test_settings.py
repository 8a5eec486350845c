"""streams/config: one precedence, readable refusals, no secret shown."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from schemas.errors import SetupError
from streams.config.settings import Settings
from streams.config.sources import LoadedSettings, combine, load_settings, masked, parse_env_file

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
    """Each source wins over the ones below it, and the origin says which it was."""
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
    """Compose files hand on unset variables as empty ones; they hide nothing below them."""
    loaded = of(environment={BOOTSTRAP: ""}, env_file={BOOTSTRAP: "file:1"})
    assert loaded.settings.kafka_bootstrap == "file:1"


def test_names_without_the_prefix_are_not_ours() -> None:
    """LOG_LEVEL of another program changes nothing and warns of nothing."""
    loaded = of(environment={"LOG_LEVEL": "debug", "log_level": "debug"})
    assert loaded.settings.log_level == "info"
    assert loaded.warnings == ()


def test_an_unknown_name_warns_with_the_nearest_one() -> None:
    """A misspelt variable is told together with what was probably meant."""
    (warning,) = of(environment={"HEADRACE_KAFKA_BOTSTRAP": "x:1"}).warnings
    assert "HEADRACE_KAFKA_BOTSTRAP (environment)" in warning
    assert f"did you mean {BOOTSTRAP}?" in warning


def test_an_unknown_flag_is_refused() -> None:
    """A flag is typed by hand: a misspelt one stops the command."""
    with pytest.raises(SetupError, match="did you mean HEADRACE_LOG_LEVEL"):
        load_settings(flags=["log_levle=debug"])


def test_each_wrong_value_is_one_line_that_names_its_variable_and_origin() -> None:
    """All wrong values are told at once, each with the variable to change."""
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
    ("values", "told"),
    [
        ({"POSTGRES_DSN": f"http://u:{PASSWORD}@h/db"}, "must begin with postgresql://"),
        ({"POSTGRES_DSN": f"postgresql://u:{PASSWORD}@h/db?sslmode=require"}, "checks no certificate"),
        ({"POSTGRES_DSN": f"postgresql://u:{PASSWORD}@[h/db"}, "not a URL"),
        ({"REDIS_URL": f"rediss://u:{PASSWORD}@h/0?ssl_cert_reqs=none"}, "always checked"),
        ({"REDIS_URL": f"redis://u:{PASSWORD}@h/0", "REDIS_SSL_CAFILE": "ca.pem"}, "begins with rediss://"),
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_PASSWORD": PASSWORD}, "KAFKA_SASL_USERNAME"),
        ({"KAFKA_SSL_KEYFILE": "k.pem", "KAFKA_SSL_KEYFILE_PASSWORD": PASSWORD}, "KAFKA_SSL_CERTFILE"),
        ({"REDIS_SSL_KEYFILE": "k.pem"}, "HEADRACE_REDIS_SSL_CERTFILE"),
        ({"REGISTRY_POLL_SECONDS": "5"}, "HEADRACE_STALE_AFTER_SECONDS=5"),
    ],
)
def test_what_does_not_go_together_is_refused_without_its_secret(values: dict[str, str], told: str) -> None:
    """What would weaken TLS or is half configured is refused; no message holds a password."""
    with pytest.raises(SetupError) as refusal:
        of(environment={f"HEADRACE_{name}": value for name, value in values.items()})
    assert told in str(refusal.value)
    assert PASSWORD not in str(refusal.value)


def test_postgres_without_sslmode_does_not_try_unchecked_tls() -> None:
    """The driver's default would accept any certificate."""
    plain = Settings(postgres_dsn="postgresql://h/db?user=x")
    assert plain.postgres_dsn.get_secret_value() == "postgresql://h/db?user=x&sslmode=disable"
    verified = "postgresql://h/db?sslmode=verify-full&sslrootcert=ca.pem"
    kept = Settings(postgres_dsn=verified)
    assert kept.postgres_dsn.get_secret_value() == verified


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
    """People recognise the server; nobody reads the password, escaped properly or not."""
    settings = Settings.model_construct(redis_url=SecretStr(url))
    assert masked("redis_url", settings.redis_url) == expected


@given(
    st.text(min_size=8, alphabet=st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"))
)
def test_no_password_is_ever_shown(password: str) -> None:
    """Whatever characters a password has, what is shown of the URL does not hold it."""
    assert password not in str(masked("redis_url", SecretStr(f"redis://someone:{password}@h:6379/0")))
    assert masked("kafka_sasl_password", SecretStr(password)) == "***"


def test_env_file_lines() -> None:
    """Comments and blank lines are skipped, one pair of quotes goes, everything else stays."""
    text = "# comment\n\nA=1\nB='x y'\nC=\"q\"\nD=a=b # no comment\nE=\n F = no\n".replace(" F = no\n", "")
    assert parse_env_file(text, "f") == {"A": "1", "B": "x y", "C": "q", "D": "a=b # no comment", "E": ""}


def test_a_wrong_line_is_named_without_its_content() -> None:
    """The line's number is told, not the line, which may hold a secret."""
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
    """A file that was asked for by name is not silently left out."""
    with pytest.raises(SetupError, match="cannot be read: No such file"):
        load_settings(tmp_path / "absent")


@pytest.mark.parametrize(
    "endpoint",
    ["minio:9000", "ftp://minio", "http://", f"http://me:{PASSWORD}@minio", f"http://minio?{PASSWORD}"],
)
@pytest.mark.parametrize("name", ["HEADRACE_S3_ENDPOINT", "HEADRACE_MLFLOW_URL"])
def test_the_address_of_a_store_is_nothing_more(name: str, endpoint: str) -> None:
    """Credentials have settings of their own, in which they are masked."""
    with pytest.raises(SetupError, match=rf"{name} \(environment\)") as refusal:
        of(environment={name: endpoint})
    assert PASSWORD not in str(refusal.value)


@pytest.mark.parametrize(
    ("public", "secret"),
    [
        ("HEADRACE_S3_ACCESS_KEY_ID", "HEADRACE_S3_SECRET_ACCESS_KEY"),
        ("HEADRACE_MLFLOW_USERNAME", "HEADRACE_MLFLOW_PASSWORD"),
    ],
)
def test_names_and_their_secrets_go_together(public: str, secret: str) -> None:
    """One without the other would be no credentials, which is something else."""
    both = {public: "name", secret: PASSWORD}
    assert PASSWORD not in str(of(environment=both).settings)
    for name, value in both.items():
        with pytest.raises(SetupError, match="go together"):
            of(environment={name: value})


def test_the_url_of_the_webhook_is_a_secret() -> None:
    """Its path or query may be all that keeps others from using it; an address it must be."""
    url = f"https://hooks.example/services/{PASSWORD}?token={PASSWORD}"
    settings = of(environment={"HEADRACE_ALERT_WEBHOOK_URL": url}).settings
    assert settings.alert_webhook_url is not None
    assert settings.alert_webhook_url.get_secret_value() == url
    assert masked("alert_webhook_url", settings.alert_webhook_url) == "***"
    for wrong in (f"hooks.example/{PASSWORD}", f"ftp://{PASSWORD}", f"https:///{PASSWORD}"):
        with pytest.raises(SetupError, match="HEADRACE_ALERT_WEBHOOK_URL") as refusal:
            of(environment={"HEADRACE_ALERT_WEBHOOK_URL": wrong})
        assert PASSWORD not in str(refusal.value)


@pytest.mark.parametrize("token", ["fifteen-letters", "with a tab\tin its middle", "ünprintable in a header"])
def test_a_token_that_can_be_guessed_or_not_sent_is_refused_without_being_told(token: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(dashboard_token=SecretStr(token))
    assert "16 characters or more" in str(refused.value)
    assert token not in str(refused.value)
