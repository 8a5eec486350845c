"""TLS, client certificates and passwords against real servers; wrong ones are refused, never ignored.

Kafka speaks TLS itself. The local Redis and PostgreSQL are built without it, so a front that ends TLS
stands before them: what is tried is how our settings reach their clients.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from redis import asyncio as redis
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError

from deploy.local.kafka import Kafka
from deploy.local.service import HOST
from schemas.errors import BrokerUnavailableError, SetupError
from streams.clients.predict_client import PredictClient
from streams.config.security import kafka_security, redis_options
from streams.config.settings import Settings
from streams.kafka.topics import create_topics
from tests.support.kafka.echo_responder import responder
from tests.support.stack.certificates import KEY_PASSWORD, Certificates
from tests.support.stack.services import StackAddresses

USER, PASSWORD = "someone", "hunter2"

# One Kafka for the whole module, not one for each process of the run.
pytestmark = [pytest.mark.xdist_group("tls"), pytest.mark.usefixtures("fast_java")]


class SecureKafka(Kafka):
    """A node with one more listener: TLS that asks for a client certificate, and SCRAM or PLAIN on it."""

    port_count = 3

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        super().__init__(directory, None, lambda _: None)
        self._certificates = certificates

    @property
    def secure_bootstrap(self) -> str:
        return f"{HOST}:{self._ports[2]}"

    def run(self, name: str, command: Sequence[str], *, standard_input: bytes = b"") -> None:
        # The only tool it runs is the one that formats; it also makes users.
        user = f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]"
        super().run(name, [*command, "--add-scram", user], standard_input=standard_input)

    def _configure(self, data: str, *ports: int) -> None:
        broker, controller, *_ = ports
        super()._configure(data, broker, controller)
        own = self._certificates
        identity = self.directory / "identity.pem"
        identity.write_text(own.server_key.read_text() + own.server_certificate.read_text())
        secure = ports[2] if len(ports) > 2 else 3
        login = "org.apache.kafka.common.security"
        extra = {
            "listeners": f"BROKER://{HOST}:{broker},CONTROLLER://{HOST}:{controller},SECURE://{HOST}:{secure}",
            "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": identity,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": own.ca,
            "listener.name.secure.ssl.client.auth": "required",
            "listener.name.secure.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
            "listener.name.secure.scram-sha-512.sasl.jaas.config": f"{login}.scram.ScramLoginModule required;",
            "listener.name.secure.plain.sasl.jaas.config": f"{login}.plain.PlainLoginModule required "
            f'user_{USER}="{PASSWORD}";',
        }
        with (self.directory / "server.properties").open("a") as properties:
            properties.writelines(f"{name}={value}\n" for name, value in extra.items())


@pytest.fixture(scope="module")
def secure_kafka(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecureKafka]:
    server = SecureKafka(tmp_path_factory.mktemp("secure-kafka"), certificates)
    server.prepare()
    server.start()
    yield server
    server.kill()


@pytest.fixture
def kafka_settings(secure_kafka: SecureKafka, certificates: Certificates) -> Settings:
    """All that the secure listener asks for."""
    return Settings.model_validate(
        {
            "kafka_bootstrap": secure_kafka.secure_bootstrap,
            "kafka_security_protocol": "SASL_SSL",
            "kafka_sasl_username": USER,
            "kafka_sasl_password": PASSWORD,
            "kafka_ssl_cafile": str(certificates.ca),
            "kafka_ssl_certfile": str(certificates.client_certificate),
            "kafka_ssl_keyfile": str(certificates.client_key),
            "kafka_ssl_keyfile_password": KEY_PASSWORD,
        }
    )


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
async def test_a_prediction_over_tls_and_sasl(kafka_settings: Settings, mechanism: str) -> None:
    """Topics are made, requests sent and responses read, all over the secure listener."""
    settings = kafka_settings.model_copy(update={"kafka_sasl_mechanism": mechanism})
    await create_topics(settings, 1)
    async with responder(settings), PredictClient(settings) as client:
        response = await client.predict("m", user_id="u", input={"n": 1})
    assert response.predictions == {"n": 1}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"kafka_sasl_password": "wrong"}, "Authentication failed|credentials"),
        ({"kafka_ssl_cafile": "other_ca"}, "CERTIFICATE_VERIFY_FAILED"),
        ({"kafka_ssl_certfile": None, "kafka_ssl_keyfile": None, "kafka_ssl_keyfile_password": None}, ""),
    ],
    ids=["password", "authority", "no client certificate"],
)
async def test_wrong_credentials_for_kafka_are_refused(
    kafka_settings: Settings, certificates: Certificates, wrong: dict[str, str | None], told: str
) -> None:
    """A wrong password, an unknown authority and a missing client certificate end the connection.

    The reason is told, not only that there is no connection.
    """
    changed = {
        name: str(certificates.other_ca) if value == "other_ca" else value for name, value in wrong.items()
    }
    secrets_shown = {
        name: value.get_secret_value() if hasattr(value, "get_secret_value") else value
        for name, value in kafka_settings.model_dump().items()
    }
    settings = Settings.model_validate(secrets_shown | changed)
    with pytest.raises(BrokerUnavailableError, match=f"cannot be reached: .*{told}"):
        await PredictClient(settings).__aenter__()


@asynccontextmanager
async def tls_front(
    certificates: Certificates, host: str, port: int, *, postgres: bool = False
) -> AsyncIterator[int]:
    """A port that ends TLS, asks for a client certificate, and passes everything on to a server."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.ca))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificates.server_certificate, certificates.server_key)
    if postgres:
        context.set_alpn_protocols(["postgresql"])

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # the other side is gone, which ends the connection too
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if postgres:
                # PostgreSQL's SSLRequest comes in the clear and is granted by one letter.
                await reader.readexactly(8)
                writer.write(b"S")
                await writer.start_tls(context)
            onward, back = await asyncio.open_connection(host, port)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            return
        await asyncio.gather(pump(reader, back), pump(onward, writer))

    server = await asyncio.start_server(serve, HOST, 0, ssl=None if postgres else context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_redis_over_tls_with_a_user(redis_url: str, certificates: Certificates) -> None:
    """An ACL user over rediss:// with a client certificate; another authority or password is refused."""
    plain = redis.from_url(redis_url)
    await plain.acl_setuser(USER, enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], categories=["+@all"])
    await plain.aclose()
    parts = urlsplit(redis_url)
    assert parts.hostname is not None
    assert parts.port is not None

    async with tls_front(certificates, parts.hostname, parts.port) as port:

        async def ping(password: str, ca: Path) -> bool:
            # Encrypted keys are Kafka's alone: redis-py takes no password for one here.
            settings = Settings.model_validate(
                {
                    "redis_url": f"rediss://{USER}:{password}@127.0.0.1:{port}/0",
                    "redis_ssl_cafile": str(ca),
                    "redis_ssl_certfile": str(certificates.server_certificate),
                    "redis_ssl_keyfile": str(certificates.server_key),
                }
            )
            client = redis.from_url(
                settings.redis_url.get_secret_value(), **redis_options(settings)["connection_options"]
            )
            try:
                return bool(await client.ping())
            finally:
                await client.aclose()

        assert await ping(PASSWORD, certificates.ca)
        with pytest.raises(AuthenticationError):
            await ping("wrong", certificates.ca)
        with pytest.raises(RedisConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            await ping(PASSWORD, certificates.other_ca)


async def test_postgres_over_tls_by_its_dsn(stack: StackAddresses, certificates: Certificates) -> None:
    """sslmode=verify-full with a client certificate in the DSN; another authority is refused."""
    parts = urlsplit(stack.postgres_dsn)
    assert parts.hostname is not None
    assert parts.port is not None

    async with tls_front(certificates, parts.hostname, parts.port, postgres=True) as port:

        async def ask(ca: Path) -> object:
            files = (
                f"sslrootcert={ca}&sslcert={certificates.server_certificate}&sslkey={certificates.server_key}"
            )
            credentials = parts.netloc.rpartition("@")[0]
            dsn = f"postgresql://{credentials}@127.0.0.1:{port}{parts.path}?sslmode=verify-full&{files}"
            settings = Settings.model_validate({"postgres_dsn": dsn})
            connection = await asyncpg.connect(settings.postgres_dsn.get_secret_value())
            try:
                return await connection.fetchval("SELECT 1")
            finally:
                await connection.close()

        assert await ask(certificates.ca) == 1
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(certificates.other_ca)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kafka_ssl_cafile": "/absent"}, "HEADRACE_KAFKA_SSL_CAFILE=/absent: No such file or directory"),
        ({"kafka_ssl_certfile": "CERT", "kafka_ssl_keyfile": "LOCKED"}, "or the wrong password"),
        (
            {"redis_url": "rediss://h/0", "redis_ssl_cafile": "LOCKED"},
            "HEADRACE_REDIS_SSL_CAFILE=.*not a usable PEM file",
        ),
    ],
)
def test_files_that_cannot_be_used_are_told_at_the_start(
    certificates: Certificates, options: dict[str, str], told: str
) -> None:
    """The message names the setting, before anything is connected and without asking on the terminal."""
    files = {"CERT": str(certificates.client_certificate), "LOCKED": str(certificates.client_key)}
    settings = Settings.model_validate(
        {"kafka_security_protocol": "SSL"}
        | {name: files.get(value, value) for name, value in options.items()}
    )
    build: Callable[[Settings], object] = redis_options if "redis_url" in options else kafka_security
    with pytest.raises(SetupError, match=told):
        build(settings)
