"""streams/config/settings.py: the sections refuse half a configuration and unverified TLS, and show no secret."""

import pytest
from pydantic import SecretStr, ValidationError

from schemas.errors import SetupError
from streams.config.settings import Settings
from streams.config.sources import LoadedSettings, combine, masked

PASSWORD = "hunter2-correct-horse"  # long and odd enough to be found wherever it leaks


def loaded(environment: dict[str, str]) -> LoadedSettings:
    return combine(flags={}, environment=environment, env_file={})


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
    """Unverified TLS and half a configuration are refused; no message holds a password."""
    with pytest.raises(SetupError) as refusal:
        loaded({f"HEADRACE_{name}": value for name, value in values.items()})
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
    "endpoint",
    ["minio:9000", "ftp://minio", "http://", f"http://me:{PASSWORD}@minio", f"http://minio?{PASSWORD}"],
)
@pytest.mark.parametrize("name", ["HEADRACE_S3_ENDPOINT", "HEADRACE_MLFLOW_URL"])
def test_the_address_of_a_store_is_nothing_more(name: str, endpoint: str) -> None:
    """Credentials have settings of their own, in which they are masked."""
    with pytest.raises(SetupError, match=rf"{name} \(environment\)") as refusal:
        loaded({name: endpoint})
    assert PASSWORD not in str(refusal.value)


@pytest.mark.parametrize(
    ("public", "secret"),
    [
        ("HEADRACE_S3_ACCESS_KEY_ID", "HEADRACE_S3_SECRET_ACCESS_KEY"),
        ("HEADRACE_MLFLOW_USERNAME", "HEADRACE_MLFLOW_PASSWORD"),
    ],
)
def test_names_and_their_secrets_go_together(public: str, secret: str) -> None:
    """One without the other is refused."""
    both = {public: "name", secret: PASSWORD}
    assert PASSWORD not in str(loaded(both).settings)
    for name, value in both.items():
        with pytest.raises(SetupError, match="go together"):
            loaded({name: value})


def test_the_url_of_the_webhook_is_a_secret() -> None:
    """Its path or query may be the only credential; it must be an http(s) address."""
    url = f"https://hooks.example/services/{PASSWORD}?token={PASSWORD}"
    settings = loaded({"HEADRACE_ALERT_WEBHOOK_URL": url}).settings
    assert settings.alert_webhook_url is not None
    assert settings.alert_webhook_url.get_secret_value() == url
    assert masked("alert_webhook_url", settings.alert_webhook_url) == "***"
    for wrong in (f"hooks.example/{PASSWORD}", f"ftp://{PASSWORD}", f"https:///{PASSWORD}"):
        with pytest.raises(SetupError, match="HEADRACE_ALERT_WEBHOOK_URL") as refusal:
            loaded({"HEADRACE_ALERT_WEBHOOK_URL": wrong})
        assert PASSWORD not in str(refusal.value)


@pytest.mark.parametrize("token", ["fifteen-letters", "with a tab\tin its middle", "ünprintable in a header"])
def test_a_token_that_can_be_guessed_or_not_sent_is_refused_without_being_told(token: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(dashboard_token=SecretStr(token))
    assert "16 characters or more" in str(refused.value)
    assert token not in str(refused.value)
