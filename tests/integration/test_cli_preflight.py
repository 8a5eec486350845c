"""A version is loaded before it is registered or gets traffic, and nothing changes when it cannot be."""

from pathlib import Path

import orjson
import pytest

from registry.store import RegistryStore
from schemas.errors import PromotionRejectedError
from schemas.events import JsonObject
from streams.cli.failures import REFUSED
from streams.cli.preflight import preflight
from streams.config.settings import Settings
from tests.support.models.served_model import apply, serve_model, spec_of
from tests.support.promotions.events import event, spec
from tests.support.stack.command import headrace

MODEL = "m"


@pytest.fixture
def settings(database: str, tmp_path: Path) -> Settings:
    """Settings with an empty registry of the test's own, and no worker."""
    return Settings.model_validate({"postgres_dsn": database, "artifact_dir": str(tmp_path / "artifacts")})


def broken(folder: Path) -> JsonObject:
    return spec_of(folder, "v1") | {"version": "broken", "artifact_sha256": "0" * 64}


async def revision(settings: Settings) -> int | None:
    store = await RegistryStore.connect(settings.postgres_dsn.get_secret_value())
    try:
        model = await store.find(MODEL)
    finally:
        await store.close()
    return None if model is None else model.revision


async def test_what_cannot_be_loaded_is_not_registered(settings: Settings, tmp_path: Path) -> None:
    """The reason is that of a worker; --force registers it."""
    document = orjson.dumps({"model_name": MODEL, "model": broken(tmp_path)})
    arguments = ("register", "-f", "-", "--direct")
    refused = await headrace(*arguments, settings=settings, stdin=document)
    assert (refused.code, refused.stdout) == (REFUSED, "")
    assert refused.stderr.startswith(
        "headrace: NOT_LOADED: broken cannot be loaded here, and nothing was changed: "
    )
    assert "has SHA-256" in refused.stderr
    assert await revision(settings) is None
    assert (await headrace(*arguments, "--force", settings=settings, stdin=document)).code == 0
    assert await revision(settings) == 1


async def test_what_cannot_be_loaded_gets_no_traffic(
    settings: Settings, database: str, tmp_path: Path
) -> None:
    """Not by any verb that gives traffic to a version that had none."""
    model = await serve_model(database, tmp_path)
    await apply(database, event("register", model, model=broken(tmp_path)))
    for verb in (
        ("promote", model, "broken"),
        ("canary", model, "broken", "5"),
        ("split", model, "broken=5"),
    ):
        refused = await headrace(*verb, "--direct", settings=settings)
        assert (refused.code, refused.stdout) == (REFUSED, "")
        assert "NOT_LOADED: broken cannot be loaded here" in refused.stderr
    forced = await headrace("promote", model, "broken", "--force", "--direct", settings=settings)
    assert forced.stdout == f"applied: {model} is at revision 4, broken 100%\n"


async def test_what_does_not_answer_is_no_refusal(settings: Settings) -> None:
    """The model server may start later, or be reachable for workers only."""
    document = orjson.dumps({"model_name": MODEL, "model": spec("v1")})
    registered = await headrace("register", "-f", "-", "--direct", settings=settings, stdin=document)
    promoted = await headrace("promote", MODEL, "v1", "--direct", settings=settings)
    for ended in (registered, promoted):
        assert ended.code == 0
        assert ended.stderr.startswith("headrace: v1 cannot be tried from here: ")


async def test_the_revision_that_was_read_is_expected(
    settings: Settings, database: str, tmp_path: Path
) -> None:
    """So a change in between is noticed. One that was given stays; an unknown model is the registry's to refuse."""
    model = await serve_model(database, tmp_path)
    await apply(database, event("register", model, model=spec_of(tmp_path, "v2")))
    promotion = event("promote", model, version="v2")
    read = await preflight(settings, promotion)
    assert read == promotion.model_copy(update={"expected_revision": 3})
    await apply(database, event("canary", model, version="v2", weight=5))
    with pytest.raises(AssertionError, match="STALE_REVISION"):
        await apply(database, read)
    given = event("promote", model, version="v2", expected_revision=1)
    assert await preflight(settings, given) == given
    unknown = event("promote", "other", version="v2")
    assert await preflight(settings, unknown) == unknown


async def test_what_the_registry_would_refuse_is_not_loaded(settings: Settings, tmp_path: Path) -> None:
    """Nor what is registered already."""
    wrong = event("register", model=broken(tmp_path) | {"input_schema": {"type": "objekt"}})
    assert await preflight(settings, wrong) == wrong
    again = event("register", model=broken(tmp_path))
    await apply(settings.postgres_dsn.get_secret_value(), again)
    assert await preflight(settings, again) == again
    with pytest.raises(PromotionRejectedError, match="cannot be loaded here"):
        await preflight(settings, event("promote", version="broken"))
