"""What is committed with an offset comes back as it was; a foreign text says nothing."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.kafka.commit_metadata import BegunRange, CommitMetadata, decode_metadata, encode_metadata

# Kafka's default of `offset.metadata.max.bytes`.
MAX_BYTES = 4096
TOPIC_ID = "4c8b8f0e-6a6b-4f3e-9d0a-0c1d2e3f4a5b"


@st.composite
def metadata(draw: st.DrawFn) -> CommitMetadata:
    ends = sorted(draw(st.sets(st.integers(0, 2**63 - 1), max_size=16)))
    attempts = sorted(
        draw(st.sets(st.integers(1, 100), min_size=len(ends), max_size=len(ends))), reverse=True
    )
    topic_id = draw(st.one_of(st.just(""), st.uuids().map(str)))
    return CommitMetadata(tuple(map(BegunRange, ends, attempts)), topic_id, parsing=draw(st.booleans()))


@given(metadata())
def test_what_is_committed_comes_back(content: CommitMetadata) -> None:
    """Each content is read as it was written, and fits into Kafka's limit."""
    text = encode_metadata(content)
    assert decode_metadata(text) == content
    assert len(text) <= MAX_BYTES


def test_nothing_to_say_is_an_empty_text() -> None:
    """As every other client commits it."""
    assert encode_metadata(CommitMetadata()) == ""
    assert decode_metadata("") == decode_metadata(None) == CommitMetadata()


def test_the_format_is_stable() -> None:
    """Workers of several versions read the texts of each other; unknown fields are ignored."""
    content = CommitMetadata((BegunRange(1203, 2), BegunRange(2000, 1)))
    assert encode_metadata(content) == '{"v":1,"begun":[[1203,2],[2000,1]]}'
    assert decode_metadata('{"v":1,"begun":[[1203,2],[2000,1]],"later":{}}') == content
    assert encode_metadata(CommitMetadata(topic_id=TOPIC_ID)) == f'{{"v":1,"topic_id":"{TOPIC_ID}"}}'


@pytest.mark.parametrize(
    "text",
    [
        "leader epoch 5",
        "[]",
        "1",
        "{}",
        '{"v":2,"begun":[[5,1]]}',
        '{"v":1,"begun":5}',
        '{"v":1,"begun":[5]}',
        '{"v":1,"begun":[[5]]}',
        '{"v":1,"begun":[[5,true]]}',
        '{"v":1,"begun":[[5,0]]}',
        '{"v":1,"begun":[[-5,1]]}',
        '{"v":1,"topic_id":5}',
        '{"v":1,"topic_id":"5"}',
        '{"v":1,"begun":[[5,1],[5,2]]}',
        '{"v":1,"begun":[[5,1],[6,1]]}',
        '{"v":1,"begun":[[9223372036854775808,1]]}',
        '{"v":1,"begun":' + str([[n, 100 - n] for n in range(17)]) + "}",
    ],
)
def test_a_foreign_text_says_nothing(text: str) -> None:
    """What Headrace cannot have written is not taken for a ledger."""
    assert decode_metadata(text) == CommitMetadata()


def as_text(ranges: object) -> str:
    return orjson.dumps({"v": 1, "begun": ranges}).decode()


@given(
    st.one_of(st.text(), st.lists(st.lists(st.integers(-1, 2**63) | st.booleans(), max_size=3)).map(as_text))
)
def test_any_text_can_be_read(text: str) -> None:
    """Whatever the text, its content could have been written."""
    content = decode_metadata(text)
    assert decode_metadata(encode_metadata(content)) == content
