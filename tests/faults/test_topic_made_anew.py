"""The topic of the requests is deleted and created under a running worker: the new topic is read from its beginning."""

from pathlib import Path

from aiokafka.admin import NewTopic

from streams.config.settings import Settings
from streams.kafka.topics import administration
from tests.support.deadline import wait_until
from tests.support.kafka.topic_log import uncommitted_requests
from tests.support.models.served_model import predictions_of, serve_model
from tests.support.stack.services import MakeTopics
from tests.support.worker.asking import PARTITIONS, asking
from tests.support.worker.process import StartWorker

OLD, NEW = 200, 300
NO_ERROR = 0


async def make_anew(settings: Settings) -> None:
    """Delete the topic and create it as soon as the broker lets us."""
    topic = NewTopic(settings.topic_requests, PARTITIONS, 1)
    async with administration(settings) as admin:
        await admin.delete_topics([settings.topic_requests])

        async def created() -> bool:
            response = await admin.create_topics([topic])
            return bool(response.topic_errors[0][1] == NO_ERROR)

        await wait_until(created, "the new topic")


async def test_nothing_of_the_new_topic_is_lost(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """The offsets of the old topic are not committed in the new one; each request of both is answered once."""
    model = await serve_model(database, tmp_path)
    settings = await topics(PARTITIONS, postgres_dsn=database, artifact_dir=str(tmp_path / "artifacts"))
    worker = start_worker(settings, roles="predict")
    await worker.ready()
    async with asking(settings) as asked:
        await asked.ask(model, range(OLD))

        async def all_committed() -> bool:
            return await uncommitted_requests(settings, PARTITIONS) == 0

        await wait_until(all_committed, "the commit of the old requests")
        await make_anew(settings)
        answers = await asked.ask(model, range(NEW))
        assert [answer.predictions for answer in answers] == [predictions_of("v1", x) for x in range(NEW)]
        await wait_until(all_committed, "the commit of the new requests")
        worker.terminate()
        assert await worker.ended() == 0
        await asked.ended()
