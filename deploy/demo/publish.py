"""Registration of the recommenders as versions of one model."""

import hashlib
import uuid
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

from deploy.demo.recommenders import LIST_LENGTH
from deploy.demo.scenario import CANARY_PERCENT, MODEL_NAME
from registry.store import RegistryStore
from schemas.errors import PromotionRejectedError, RejectionCode
from schemas.models import Action, Framework, ModelSpec, PromotionEvent
from streams.config.settings import Settings

_ACTOR = "demo"

# Short, so that a replay that starts over computes predictions again.
_CACHE_TTL_SECONDS = 10


def model_spec(
    version: str, path: Path, *, users: int, items: int, hit_rate: float, trained_on_rows: int
) -> ModelSpec:
    """The specification of a version, with the digest of its file at `path`."""
    return ModelSpec(
        version=version,
        framework=Framework.ONNX,
        artifact_uri=path.absolute().as_uri(),
        artifact_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        input_schema={
            "type": "object",
            "properties": {"user_idx": {"type": "integer", "minimum": 0, "maximum": users - 1}},
            "required": ["user_idx"],
            "additionalProperties": False,
        },
        output_schema={
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": items - 1},
            "minItems": LIST_LENGTH,
            "maxItems": LIST_LENGTH,
            "uniqueItems": True,
        },
        metrics={"hit_rate_at_10": round(hit_rate, 4), "trained_on_rows": trained_on_rows},
        cache_ttl_seconds=_CACHE_TTL_SECONDS,
        created_by=_ACTOR,
    )


def promotion_events(production: ModelSpec, canary: ModelSpec) -> list[PromotionEvent]:
    """The events that register both versions and split the traffic between them."""
    return [
        _event(Action.REGISTER, model=production),
        _event(Action.PROMOTE, version=production.version),
        _event(Action.REGISTER, model=canary),
        _event(Action.CANARY, version=canary.version, weight=Decimal(CANARY_PERCENT)),
    ]


async def publish(settings: Settings, events: Iterable[PromotionEvent]) -> None:
    """Apply the events in order without Kafka, as `headrace` does with `--direct`, since no worker runs yet.

    Raises PromotionRejectedError.
    """
    store = await RegistryStore.connect(settings.postgres_dsn.get_secret_value())
    try:
        for event in events:
            error = (await store.apply(event)).error
            if error is not None:
                raise PromotionRejectedError(RejectionCode(error.code), error.message)
    finally:
        await store.close()


def _event(
    action: Action,
    *,
    version: str | None = None,
    weight: Decimal | None = None,
    model: ModelSpec | None = None,
) -> PromotionEvent:
    return PromotionEvent(
        event_id=str(uuid.uuid4()),
        model_name=MODEL_NAME,
        action=action,
        version=version,
        weight=weight,
        model=model,
        actor=_ACTOR,
    )
