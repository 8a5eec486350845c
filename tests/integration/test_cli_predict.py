"""`headrace predict` on a real broker, with an echo in the place of the worker."""

import asyncio
import os
import pty
from pathlib import Path

import orjson
from pydantic import SecretStr

from schemas.events import JsonObject
from streams.cli.failures import REFUSED
from tests.support.deadline import DEADLINE_SECONDS
from tests.support.kafka.echo_responder import echo, failing, responder
from tests.support.models.served_model import apply
from tests.support.promotions.events import event, spec
from tests.support.stack.command import HEADRACE, environment, headrace
from tests.support.stack.services import MakeTopics


def lines(*documents: JsonObject) -> bytes:
    return b"".join(orjson.dumps(document) + b"\n" for document in documents)


async def test_one_prediction(topics: MakeTopics) -> None:
    """The predictions alone go to standard output; --json prints the whole response."""
    settings = await topics(1)
    async with responder(settings):
        plain = await headrace("predict", "m", "--user", "u", "--input", '{"n": 1}', settings=settings)
        full = await headrace(
            "predict", "m", "--user", "u", "--input", '{"n": 1}', "--json", settings=settings
        )
    assert (plain.code, plain.stdout, plain.stderr) == (0, '{"n":1}\n', "")
    (response,) = full.documents
    assert (response["model_version"], response["predictions"]) == ("v1", {"n": 1})
    assert "error" not in response


async def test_an_answered_error_has_a_code_of_its_own(topics: MakeTopics) -> None:
    """Exit code 4 separates an answered error from no answer; people read the error's code."""
    settings = await topics(1)
    async with responder(settings, failing):
        ended = await headrace("predict", "m", "--user", "u", "--input", '{"fail": true}', settings=settings)
    assert (ended.code, ended.stdout) == (4, "")
    assert ended.stderr.startswith("INVALID_INPUT: as asked\n")


async def test_an_unknown_model_suggests_the_nearest(topics: MakeTopics, database: str) -> None:
    """If the registry can be asked; without it the answer is all that is told."""

    def unknown(request: JsonObject) -> JsonObject:
        response = failing(request) or {}
        return response | {"error": {"code": "UNKNOWN_MODEL", "message": "no such model", "details": []}}

    await apply(database, event("register", "fraud", model=spec("v1")))
    settings = await topics(1, postgres_dsn=database)
    nowhere = settings.model_copy(update={"postgres_dsn": SecretStr("postgresql://127.0.0.1:1/headrace")})
    async with responder(settings, unknown):
        arguments = ("predict", "fruad", "--user", "u", "--input", '{"fail": true}')
        near, alone = await asyncio.gather(
            headrace(*arguments, settings=settings), headrace(*arguments, settings=nowhere)
        )
    assert (near.code, alone.code) == (4, 4)
    assert "\nheadrace: there is no model fruad; did you mean fraud?\n" in near.stderr
    assert "did you mean" not in alone.stderr


async def test_lines_are_answered_in_order(topics: MakeTopics) -> None:
    """One response a line, in the order of the requests, with the ids that were given."""
    settings = await topics(4)
    requests = lines(
        *({"user_id": f"u{n}", "input": {"n": n}, "request_id": f"r{n}"} for n in range(500)),
        {"input": {"n": 500}, "request_id": "r500"},
    )
    async with responder(settings):
        ended = await headrace("predict", "m", "--user", "default", stdin=requests, settings=settings)
    assert (ended.code, ended.stderr) == (0, "")
    assert [document["request_id"] for document in ended.documents] == [f"r{n}" for n in range(501)]
    assert ended.documents[-1]["user_id"] == "default"


async def test_unanswered_and_failed_lines_are_told(topics: MakeTopics) -> None:
    """A request without an answer gets an error on its line and an exit code."""

    def silent_on_two(request: JsonObject) -> JsonObject | None:
        return None if request["input"].get("n") == 2 else failing(request)

    settings = await topics(1)
    requests = lines(
        {"user_id": "u", "input": {"n": 1}},
        {"user_id": "u", "input": {"n": 2}, "request_id": "silent"},
        {"user_id": "u", "input": {"fail": True}},
    )
    async with responder(settings, silent_on_two):
        # For the one that gets no answer; on a busy machine too the others are answered by then.
        ended = await headrace("predict", "m", "--timeout", "4", stdin=requests, settings=settings)
    assert ended.code == 3
    codes = [document.get("error", {}).get("code") for document in ended.documents]
    assert codes == [None, "NO_RESPONSE", "INVALID_INPUT"]
    assert ended.documents[1]["request_id"] == "silent"


async def test_a_wrong_line_ends_the_command_after_the_answers_before_it(topics: MakeTopics) -> None:
    """The error names the line, and nothing that was sent is lost."""
    settings = await topics(1)
    requests = lines({"user_id": "u", "input": {}}) + b"\n{oops\n" + lines({"user_id": "u", "input": {}})
    async with responder(settings):
        ended = await headrace("predict", "m", "--json", stdin=requests, settings=settings)
    assert ended.code == REFUSED
    answer, error = ended.documents
    assert answer["predictions"] == {}
    assert error["error"]["code"] == "INVALID_REQUEST"
    assert error["error"]["message"].startswith("line 3: not valid JSON")


async def test_lines_are_answered_while_the_pipe_stays_open(topics: MakeTopics) -> None:
    """A slow writer sees each response before it sends the next line; an open pipe stops no exit."""
    settings = await topics(1)
    async with responder(settings, echo):
        process = await asyncio.create_subprocess_exec(
            HEADRACE,
            "predict",
            "m",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(settings),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            for n in range(3):
                process.stdin.write(lines({"user_id": "u", "input": {"n": n}}))
                assert orjson.loads(await process.stdout.readline())["predictions"] == {"n": n}
            process.stdin.write(b"not a request\n")
            assert await process.wait() == REFUSED


async def test_progress_goes_to_the_terminal_and_responses_to_the_file(
    topics: MakeTopics, tmp_path: Path
) -> None:
    """With standard error on a terminal a bar counts to the number of lines, apart from the responses."""
    settings = await topics(1)
    requests, responses = tmp_path / "requests", tmp_path / "responses"
    requests.write_bytes(lines(*({"user_id": "u", "input": {"n": n}} for n in range(100))))
    terminal, other_end = pty.openpty()
    shown, told = bytearray(), asyncio.Event()

    def read() -> None:
        # A terminal holds few bytes; were they not read, the command would stop.
        shown.extend(os.read(terminal, 65536))
        if b"not answered" in shown:
            told.set()

    asyncio.get_running_loop().add_reader(terminal, read)
    try:
        with requests.open() as stdin, responses.open("w") as stdout:
            async with responder(settings), asyncio.timeout(DEADLINE_SECONDS):
                process = await asyncio.create_subprocess_exec(
                    *(HEADRACE, "predict", "m"),
                    stdin=stdin,
                    stdout=stdout,
                    stderr=other_end,
                    env=environment(settings) | {"TERM": "xterm"},
                )
                assert await process.wait() == 0
                await told.wait()
    finally:
        asyncio.get_running_loop().remove_reader(terminal)
        os.close(terminal)
        os.close(other_end)
    documents = [orjson.loads(line) for line in responses.read_text().splitlines()]
    assert [document["predictions"]["n"] for document in documents] == list(range(100))
    assert b"100/100" in shown
    assert b"100 predicted, 0 answered with an error, 0 not answered" in shown
    assert b"predictions" not in shown


async def test_an_unreachable_broker_is_told_without_a_traceback() -> None:
    """Exit code 3, what could not be reached, and what to do next."""
    arguments = ("predict", "m", "--user", "u", "--input", "{}", "--set", "kafka_bootstrap=127.0.0.1:1")
    ended = await headrace(*arguments)
    assert ended.code == 3
    # Between them: a sentence where there is no env file.
    first, *_, last = ended.stderr.splitlines()
    assert first.startswith("headrace: Kafka at 127.0.0.1:1 cannot be reached: ")
    assert "Connect call failed" in first
    assert "headrace config" in last
