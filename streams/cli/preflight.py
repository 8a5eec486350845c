"""What a verb finds out before it gives a version traffic: whether the version can be loaded, and the model's revision."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.snapshot import RegisteredModel
    from schemas.models import ModelSpec, PromotionEvent
    from streams.config.settings import Settings

# A registry that hangs must not delay an event that a control worker can decide.
READ_SECONDS = 2.0
FORCE = "--force skips this trial"


async def preflight(settings: "Settings", event: "PromotionEvent") -> "PromotionEvent":
    """Load, here, the versions that an event registers or gives traffic for the first time, as a worker would.

    Versions with traffic are not loaded: of those the registry knows from the workers. Nothing is loaded for an event that
    the registry refuses. Returns the event with the revision that was read, so that a change in between is noticed.

    Raises PromotionRejectedError (NOT_LOADED) when a version cannot be loaded. Where a server, a store or the registry
    does not answer, only says so.
    """
    from datetime import UTC, datetime

    from registry.lifecycle import apply
    from schemas.errors import PromotionRejectedError

    model = await _read_model(settings, event.model_name)
    try:
        applied = apply(model, event, datetime.now(UTC))
    except PromotionRejectedError:
        return event
    if event.model is None:
        new = applied.model.with_traffic - (model.with_traffic if model else frozenset())
    else:
        new = frozenset() if applied.is_unchanged else frozenset({event.model.version})
    for version in sorted(new):
        await _try_to_load(settings, event.model_name, applied.model.versions[version].spec)
    if event.model is None and model is not None:
        return event.model_copy(update={"expected_revision": model.revision})
    return event


async def _read_model(settings: "Settings", model_name: str) -> "RegisteredModel | None":
    """The model; None when it is not registered, or cannot be read now."""
    import asyncio

    from registry.store import RegistryStore
    from schemas.errors import RegistryUnavailableError, SetupError
    from streams.cli.registry_access import with_database

    try:
        async with asyncio.timeout(READ_SECONDS):
            return await with_database(settings, lambda database: RegistryStore(database).find(model_name))
    except (RegistryUnavailableError, SetupError) as error:
        reason = str(error)
    except TimeoutError:
        reason = f"PostgreSQL does not answer within {READ_SECONDS:g} s"
    print(f"headrace: the version is not tried before: {reason}", file=sys.stderr, flush=True)
    return None


async def _try_to_load(settings: "Settings", model_name: str, spec: "ModelSpec") -> None:
    from schemas.errors import ArtifactError, PromotionRejectedError, RejectionCode, UnavailableError
    from streams.models.backend_loader import BackendLoader, warm

    if sys.stderr.isatty():
        print(f"headrace: loading {spec.version} here first; {FORCE}", file=sys.stderr, flush=True)
    try:
        backend = await BackendLoader(settings)(model_name, spec)
        try:
            await warm(backend, timeout_seconds=settings.load_timeout_seconds)
        finally:
            await backend.close()
    except ArtifactError as error:
        raise PromotionRejectedError(
            RejectionCode.NOT_LOADED,
            f"{spec.version} cannot be loaded here, and nothing was changed: {error}. Mend it; if workers can load what "
            f"this machine cannot, {FORCE}",
        ) from None
    except UnavailableError as error:
        print(f"headrace: {spec.version} cannot be tried from here: {error}", file=sys.stderr, flush=True)
