"""Do with a version what the registry and a worker would do, and collect the findings.

Steps: the registry's rules, the worker's loader and warm-up, the prediction of an example as for a request,
and the latency of calls.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import orjson

from registry.lifecycle import apply
from registry.registration import warnings_on
from schemas.errors import (
    ArtifactError,
    BackendFailedError,
    BackendTooLargeError,
    BackendUnavailableError,
    PromotionRejectedError,
    UnavailableError,
)
from schemas.events import ErrorCode, ErrorDetail, JsonObject
from schemas.json_schema import Validator, compile_schema, details
from schemas.mapping import schema_of
from schemas.models import Framework, ModelSpec, PromotionEvent, RequestForm
from schemas.wire import canonical
from streams.checking.agreement import differences
from streams.checking.call_latency import MAX_SECONDS, Latency, batch_sizes, measure
from streams.checking.contradictions import contradictions, left_out, misfits, misnamed
from streams.checking.findings import NOT_LOADED, WRONG_PREDICTIONS, Findings
from streams.checking.samples import sample_of
from streams.config.settings import Settings
from streams.kafka.topics import DEFAULT_MESSAGE_BYTES
from streams.models.backend_loader import BackendLoader, warm
from streams.serving.pipeline_options import MAX_PREDICTIONS_BYTES, RESPONSE_ROOM_BYTES
from streams.serving.served_version import max_batch
from workers.backends.port import DescribedBackend
from workers.calls.batch_size import LONG
from workers.calls.call_bytes import MAX_BYTES

MAX_REPORTED = 3
# TorchServe receives a batch as single calls, whatever max_batch is.
TORCHSERVE_CALLS = 32


class Watcher(Protocol):
    """Receives the progress of a check."""

    def fetched(self, size_bytes: int, total_bytes: int | None) -> None:
        """`size_bytes` of the model file are fetched; `total_bytes` is None when unknown."""
        ...

    def measured(self, batch_size: int, part: float) -> None:
        """The share `part`, 0 to 1, of the measurement at this batch size is done."""
        ...


async def check_version(event: PromotionEvent, settings: Settings, watcher: Watcher) -> Findings:
    """Check the version in an event with action `register`.

    Raises PromotionRejectedError when the event has no version, SetupError when the settings are wrong.
    """
    refusal: PromotionRejectedError | None = None
    try:
        apply(None, event, datetime.now(UTC))
    except PromotionRejectedError as error:
        refusal = error
    spec = event.model
    if spec is None:
        assert refusal is not None  # the registry refuses an event without a version
        raise refusal
    findings = Findings(event.model_name, spec.version, spec.framework)
    findings.warnings += warnings_on(spec)
    if refusal is not None:
        findings.refuse(refusal.code, refusal.message)
    try:
        loader = BackendLoader(settings, watcher.fetched, asks_source=True)
        backend = await loader(event.model_name, spec)
        try:
            await warm(backend, timeout_seconds=settings.load_timeout_seconds)
            await _look_at_model(spec, backend, findings, watcher)
        finally:
            await backend.close()
    except ArtifactError as error:
        findings.refuse(NOT_LOADED, str(error))
    except UnavailableError as error:
        findings.unreachable = str(error)
    return findings


async def _look_at_model(
    spec: ModelSpec, backend: DescribedBackend, findings: Findings, watcher: Watcher
) -> None:
    findings.description = described = await backend.describe()
    if described is not None:
        findings.warnings += left_out(described)
    if findings.refusals:
        # The schemas or the example are wrong; the declaration of the model helps to correct them.
        return
    accepts, promises = compile_schema(spec.input_schema), compile_schema(spec.output_schema)
    needed = _needed(spec, findings)
    _choose_example(spec, needed, accepts, findings)
    if needed is not None:
        findings.warnings += contradictions(needed, accepts, findings.example)
    if spec.mapping is not None and spec.mapping.inputs and described is not None:
        findings.warnings += misnamed(spec.mapping, described)
    if findings.example is None:
        findings.warnings.append(
            "the version has no example, and none can be made from input_schema: its predictions and their "
            "latency are not checked; give it `example`"
        )
        if needed is not None:
            findings.warnings += misfits("input_schema", needed, accepts)
        if described is not None:
            findings.warnings += misfits("output_schema", described.output_schema(), promises)
        return
    predictions = await _predict(spec, backend, findings, [findings.example])
    if predictions is None:
        return
    findings.predictions, findings.predicted = predictions[0], True
    _check_predictions(spec, promises, findings)
    if findings.accepted:
        await _measure(spec, backend, findings, watcher)


def _needed(spec: ModelSpec, findings: Findings) -> JsonObject | None:
    """The JSON Schema of the inputs that fit the model; None when neither mapping nor model declares them."""
    if spec.mapping is not None and spec.mapping.inputs:
        return schema_of(spec.mapping)
    # A value that is sent without its key may have any key.
    if findings.description is None or spec.server.form is RequestForm.VALUE:
        return None
    return findings.description.input_schema()


def _choose_example(
    spec: ModelSpec, needed: JsonObject | None, accepts: Validator, findings: Findings
) -> None:
    if spec.example is not None:
        findings.example = spec.example.input
        return
    for schema in (spec.input_schema, needed):
        sample = None if schema is None else sample_of(schema)
        # An empty input tests nothing.
        if isinstance(sample, dict) and sample and accepts.is_valid(sample):
            findings.example, findings.example_made = sample, True
            return


async def _predict(
    spec: ModelSpec, backend: DescribedBackend, findings: Findings, inputs: Sequence[JsonObject]
) -> list[Any] | None:
    """The predictions, or None after adding to `findings` why there are none; raises UnavailableError."""
    timeout_seconds = spec.timeout_ms / 1000
    what = "example.input" if not findings.example_made else "an input that input_schema accepts"
    if len(inputs) > 1:
        what = f"{len(inputs)} times {what} in one call"
    start = time.perf_counter()
    try:
        predictions = await backend.infer(inputs, timeout_seconds=timeout_seconds)
        for prediction in predictions:
            if isinstance(prediction, BackendFailedError):
                raise prediction
    except BackendUnavailableError as error:
        if time.perf_counter() - start < timeout_seconds:
            raise UnavailableError(str(error)) from None
        if len(inputs) > 1:
            findings.warnings.append(
                f"no prediction for {what} within timeout_ms, {spec.timeout_ms} ms; a worker makes smaller calls"
            )
        else:
            findings.refuse(
                error.code,
                f"no prediction for {what} within timeout_ms, {spec.timeout_ms} ms; raise timeout_ms",
            )
    except BackendFailedError as error:
        if isinstance(error, BackendTooLargeError) and len(inputs) > 1:
            findings.warnings.append(f"{what} is too large: {error.message}; a worker makes smaller calls")
            return None
        findings.refuse(
            error.code, f"the model does not predict {what}: {error.message}; {_remedy(findings, inputs)}"
        )
    else:
        return predictions
    return None


def _remedy(findings: Findings, inputs: Sequence[JsonObject]) -> str:
    if len(inputs) > 1:
        return "correct the model, or lower max_batch"
    if findings.example_made:
        return "make input_schema refuse what the model cannot take, or give the version an `example` that the model can"
    return "correct the model, or give the version an example that the model can take"


def _check_predictions(spec: ModelSpec, promises: Validator, findings: Findings) -> None:
    if not promises.is_valid(findings.predictions):
        found = details(promises, findings.predictions)
        findings.refuse(
            ErrorCode.INVALID_OUTPUT,
            f"the predictions do not match output_schema: {_summary(found)}; correct output_schema or the model",
        )
    size_bytes = len(orjson.dumps(findings.predictions))
    if size_bytes > DEFAULT_MESSAGE_BYTES - RESPONSE_ROOM_BYTES:
        findings.warnings.append(
            f"the predictions have {size_bytes} bytes; the topic of responses must take that: set its max.message.bytes to "
            f"at least {size_bytes + RESPONSE_ROOM_BYTES}"
        )
    if size_bytes > MAX_PREDICTIONS_BYTES:
        findings.refuse(
            ErrorCode.INVALID_OUTPUT,
            f"the predictions have {size_bytes} bytes, and at most {MAX_PREDICTIONS_BYTES} are sent; have the "
            "model answer less",
        )
    if spec.example is not None and spec.example.predictions is not None:
        differing = list(differences(spec.example.predictions, findings.predictions))
        if differing:
            findings.refuse(
                WRONG_PREDICTIONS,
                f"the model predicts otherwise than example.predictions: {_summary(differing)}; is it another "
                "model, or the example of another?",
            )


def _summary(found: Sequence[ErrorDetail]) -> str:
    return "; ".join(f"{detail.path or 'it'}: {detail.message}" for detail in found[:MAX_REPORTED])


async def _measure(spec: ModelSpec, backend: DescribedBackend, findings: Findings, watcher: Watcher) -> None:
    assert findings.example is not None
    if spec.framework is Framework.TORCHSERVE:
        largest = TORCHSERVE_CALLS
    else:
        largest = 1 if backend.takes_one else max_batch(spec)
    for batch_size in batch_sizes(largest):
        if findings.latency and findings.latency[-1].median_ms > LONG * spec.timeout_ms:
            # A worker makes no larger calls, unless they cost hardly more than these.
            return
        if batch_size > 1 and batch_size * len(canonical(findings.example)) > MAX_BYTES:
            # Nor calls with more bytes.
            return
        inputs = [findings.example] * batch_size
        start = time.perf_counter()
        predictions = await _predict(spec, backend, findings, inputs)
        seconds = time.perf_counter() - start
        if predictions is None:
            return
        differing = [each for one in predictions for each in differences(findings.predictions, one)]
        if differing:
            findings.warnings.append(
                f"the model predicts otherwise for {batch_size} examples in one call: {_summary(differing)}"
            )
        if seconds > MAX_SECONDS:
            # A repetition would take as long, and add nothing.
            findings.latency.append(Latency.of(batch_size, [seconds]))
            return
        try:
            findings.latency.append(
                await measure(
                    backend,
                    inputs,
                    timeout_seconds=spec.timeout_ms / 1000,
                    on_progress=partial(watcher.measured, batch_size),
                )
            )
        except (BackendUnavailableError, BackendFailedError) as error:
            # The same call succeeded before.
            findings.warnings.append(f"of many calls with {batch_size} examples one failed: {error.message}")
            return
