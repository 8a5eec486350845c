"""Topics are deleted and created under running workers: the new ones are read from their beginning, once."""

from pathlib import Path

from schemas.models import PromotionResult
from streams.config.settings import Settings
from tests.support.deadline import wait_until
from tests.support.kafka.administration import make_anew
from tests.support.kafka.topic_log import topic_log, uncommitted_promotions, uncommitted_requests
from tests.support.models.served_model import predictions_of, serve_model
from tests.support.promotions.events import event, publish, spec
from tests.support.stack.services import MakeTopics
from tests.support.worker.asking import PARTITIONS, asking
from tests.support.worker.process import StartWorker

OLD, NEW = 200, 300
OLD_EVENTS, NEW_EVENTS = 10, 15


async def until_committed(settings: Settings) -> None:
    async def committed() -> bool:
        return (
            await uncommitted_requests(settings, PARTITIONS) == 0
            and await uncommitted_promotions(settings) == 0
        )

    await wait_until(committed, "the commit of all requests and promotion events")


async def test_nothing_of_the_new_topic_is_lost(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """The offsets of the old topic are not committed in the new one; each request of both is answered once.

    The id of its topic tells a response of the new one from a repeat of the old one.
    """
    model = await serve_model(database, tmp_path)
    settings = await topics(PARTITIONS, postgres_dsn=database, artifact_dir=str(tmp_path / "artifacts"))
    worker = start_worker(settings, roles="predict")
    await worker.ready()
    async with asking(settings) as asked:
        await asked.ask(model, range(OLD))
        await until_committed(settings)
        await make_anew(settings, settings.topic_requests, PARTITIONS)
        answers = await asked.ask(model, range(NEW))
        assert [answer.predictions for answer in answers] == [predictions_of("v1", x) for x in range(NEW)]
        await until_committed(settings)
        worker.terminate()
        assert await worker.ended() == 0
        await asked.ended()
        places = asked.places()
    assert len(set(places)) == len(places) == OLD + NEW
    assert len({source for source, _ in places}) == NEW


async def test_a_new_topic_is_noticed_by_its_id(
    topics: MakeTopics, database: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    """The new topics have more records than the old positions say, and the worker never saw them missing."""
    model = await serve_model(database, tmp_path)
    settings = await topics(PARTITIONS, postgres_dsn=database, artifact_dir=str(tmp_path / "artifacts"))
    old_events = [event("register", f"old{number}", model=spec("v1")) for number in range(OLD_EVENTS)]
    new_events = [event("register", f"new{number}", model=spec("v1")) for number in range(NEW_EVENTS)]
    worker = start_worker(settings, roles="predict,control")
    await worker.ready()
    async with (
        asking(settings) as asked,
        topic_log(settings.kafka_bootstrap, settings.topic_promotion_results) as log,
    ):
        await publish(settings, *old_events)
        await asked.ask(model, range(OLD))
        await until_committed(settings)
        worker.pause()
        await make_anew(settings, settings.topic_requests, PARTITIONS)
        await make_anew(settings, settings.topic_promotions, 1)
        await publish(settings, *new_events)
        ids = await asked.send(model, range(NEW))
        worker.resume()
        answers = await asked.answers(ids)
        assert [answer.predictions for answer in answers] == [predictions_of("v1", x) for x in range(NEW)]
        await until_committed(settings)
        worker.terminate()
        assert await worker.ended() == 0
        await asked.ended()
        await log.to_end()
        records = log.of(settings.topic_promotion_results)
    results = [PromotionResult.model_validate_json(record.value) for record in records]
    assert [result.event_id for result in results] == [one.event_id for one in [*old_events, *new_events]]
    assert worker.count("topic was created again; it is read from its beginning") == 2
