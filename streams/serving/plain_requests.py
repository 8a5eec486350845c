"""PURE. The plain requests of a slice, column by column: each step is taken for many records before the next one.

Almost every record is plain: the plain reader accepts it, its model takes traffic, and its input is valid. Taken by
columns, a record costs two thirds of what `parse` and `route_and_validate` take for it. Every other record is left to
these two, which find its error. A property test holds that both ways give the same requests.
"""

from collections.abc import Mapping, Sequence
from itertools import compress
from operator import not_

from schemas.wire import digests
from streams.kafka.offset_tracker import Record
from streams.serving.requests import PlainRequest, RequestContext, Requests, read_plain
from streams.serving.route_table import ServedModel, ServingTable

# With fewer records, columns cost more than they save.
MIN_RECORDS = 8
# What is made of so many records on the way fits into the processor's cache.
COLUMN_RECORDS = 250
# Each model of a column, and each version of a model, takes a pass over it. Beyond so many, columns cost more.
MAX_PASSES = 8
# The plain reader raises these, and TypeError for a record without a value.
_REFUSALS = (ValueError, RecursionError, TypeError)


def plain_requests(
    records: Sequence[Record], table: ServingTable, max_bytes: int, now_unix_ms: float, *, stale: bool
) -> tuple[Requests, list[Record]]:
    """The plain requests by the version that is to answer them, in their order; and the records that are not plain.

    Fewer than `MIN_RECORDS` are all left over, and so is the rest of a slice from where more than `MAX_PASSES` models are
    in one column. `stale` says that the table may be older than the registry.
    """
    if len(records) < MIN_RECORDS:
        return {}, list(records)
    requests: Requests = {}
    others: list[Record] = []
    for start in range(0, len(records), COLUMN_RECORDS):
        rows = _Rows(records[start : start + COLUMN_RECORDS], max_bytes)
        served = {
            name: table.models[name]
            for name in {document.model_name for document in rows.documents}
            if name in table.models and _is_served(table.models[name], stale=stale)
        }
        if len(served) > MAX_PASSES:
            return requests, [*others, *records[start:]]
        rows.keep_usual(served, now_unix_ms)
        for name, model in served.items():
            for version, of_version in rows.requests_of(name, model, is_only=len(served) == 1).items():
                requests.setdefault(version, []).extend(of_version)
        others += rows.others
    return requests, others


class _Rows:
    """The records that are plain as far as it is known, and beside each what it says; the rest is in `others`."""

    def __init__(self, records: Sequence[Record], max_bytes: int) -> None:
        self.others: list[Record] = []
        self.records = records
        self.documents: Sequence[PlainRequest]
        values = [record.value for record in records]
        try:
            if max(map(len, values)) > max_bytes:  # type: ignore[arg-type]  # None raises TypeError
                raise ValueError
            self.documents = [*map(read_plain, values)]  # type: ignore[arg-type]
        except _REFUSALS:
            documents = [_read(value, max_bytes) for value in values]
            self.records = self._kept(records, [document is not None for document in documents])
            self.documents = [document for document in documents if document is not None]

    def keep_usual(self, served: Mapping[str, ServedModel], now_unix_ms: float) -> None:
        """Leave out what the plain reader leaves open, and what has no version now."""
        documents = self.documents
        if (
            "".join([document.request_id for document in documents]).isprintable()
            and {document.model_name for document in documents} <= served.keys()
            and {document.deadline_ms for document in documents} == {None}
        ):
            return
        usual = [
            # Control characters are not printable.
            document.request_id.isprintable()
            and document.model_name in served
            and (document.deadline_ms is None or now_unix_ms < record.timestamp + document.deadline_ms)
            for record, document in zip(self.records, documents, strict=True)
        ]
        self.documents = [*compress(documents, usual)]
        self.records = self._kept(self.records, usual)

    def requests_of(self, name: str, model: ServedModel, *, is_only: bool) -> Requests:
        """The requests of a model; `is_only` says that there are no others."""
        records, documents = self.records, self.documents
        if not is_only:
            of_model = [document.model_name == name for document in documents]
            records, documents = [*compress(records, of_model)], [*compress(documents, of_model)]
        input_digests = digests([document.input for document in documents])
        if not all(input_digests):
            records = self._kept(records, input_digests)
            documents = [*compress(documents, input_digests)]
            input_digests = [*filter(None, input_digests)]
        versions = model.versions_for([document.user_id for document in documents])
        different = dict.fromkeys(versions)
        if len(different) > MAX_PASSES:
            self.others += records
            return {}
        revision = model.revision
        requests = [
            RequestContext(
                record,
                document.request_id,
                name,
                document.user_id,
                document.input,
                None if document.deadline_ms is None else record.timestamp + document.deadline_ms,
                version,
                revision,
                digest,
            )
            for record, document, version, digest in zip(
                records, documents, versions, input_digests, strict=True
            )
        ]
        by_version: Requests = {}
        for version in different:
            of_version = [request for request in requests if request.version is version]
            valid = [*map(version.input_is_valid, [request.input for request in of_version])]
            if not all(valid):
                self.others += [request.record for request in compress(of_version, map(not_, valid))]
                of_version = [*compress(of_version, valid)]
            if of_version:
                by_version[version] = of_version
        return by_version

    def _kept(self, records: Sequence[Record], mask: Sequence[object]) -> list[Record]:
        """The records of the mask; moves the rest to `others`."""
        self.others += compress(records, map(not_, mask))
        return [*compress(records, mask)]


def _read(value: bytes | None, max_bytes: int) -> PlainRequest | None:
    try:
        return None if value is None or len(value) > max_bytes else read_plain(value)
    except _REFUSALS:
        return None


def _is_served(model: ServedModel, *, stale: bool) -> bool:
    """Whether each version with traffic answers now."""
    targets = model.targets
    return bool(targets) and not (stale and any(version.fails_when_stale for version in targets))
