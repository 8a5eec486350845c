"""The competitors: the command of each, how many records it gets, and how its outputs are checked."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from .workload import Dialect

PEERS = Path(__file__).with_name("peers")
_HEADRACE = Path(sys.executable).with_name("headrace")


class Answers(StrEnum):
    """How a competitor's outputs are checked."""

    ECHO = "echo"
    CONSTANT = "constant"
    PREDICTIONS = "predictions"


class Cache(StrEnum):
    """What is in Redis when a round starts: nothing, or the prediction of every input."""

    UNUSED = "unused"
    COLD = "cold"
    WARM = "warm"


@dataclass(frozen=True, slots=True)
class Competitor:
    """One program in one state of the cache.

    `records` is for a round of some seconds on two cores. `window` is how many records may wait for
    it at once; None gives it all of them before it starts. `redis_db` holds its family's predictions.
    """

    name: str
    title: str
    command: Sequence[str]
    records: int
    venv: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    dialect: Dialect = Dialect.PREDICT
    answers: Answers = Answers.ECHO
    cache: Cache = Cache.UNUSED
    redis_db: int = 0
    window: int | None = None


def _peer(program: str) -> Sequence[str]:
    return ("python", str(PEERS / program))


def _cold_and_warm(one: Competitor) -> list[Competitor]:
    """Cold before warm: the cold round fills the cache for the warm one."""
    return [
        replace(
            one,
            name=f"{one.name}-{cache}",
            title=f"{one.title}, {cache}",
            answers=Answers.PREDICTIONS,
            cache=cache,
        )
        for cache in (Cache.COLD, Cache.WARM)
    ]


HEADRACE = _cold_and_warm(
    Competitor("headrace", "Headrace", (str(_HEADRACE), "worker", "--roles", "predict"), 400_000)
)
BARE = Competitor("bare-aiokafka", "(a) bare aiokafka, tuned", _peer("aiokafka_echo.py"), 600_000, "aiokafka")
BARE_DEFAULTS = replace(
    BARE,
    name="bare-aiokafka-defaults",
    title="(a) bare aiokafka, as it comes",
    records=300_000,
    variables={"BENCH_DEFAULTS": "1"},
)
FAUST_ECHO = Competitor(
    "faust-echo",
    "(b) Faust echo",
    _peer("faust_echo.py"),
    30_000,
    "faust",
    # Read when faust is imported.
    variables={"FAUST_LOOP": "uvloop"},
)
QUIX_ECHO = Competitor("quix-echo", "(c) Quix Streams echo", _peer("quix_echo.py"), 300_000, "quix")
MLSERVER = Competitor(
    "mlserver",
    "(d) MLServer, constant model",
    ("mlserver", "start", str(PEERS / "mlserver_constant")),
    25_000,
    "mlserver",
    dialect=Dialect.OPEN_INFERENCE,
    answers=Answers.CONSTANT,
    # It makes a task of every record at hand: it is fastest with about this many, and runs at a twentieth of
    # that with 20,000.
    window=512,
)
QUIX_SAME_WORK = _cold_and_warm(
    replace(
        QUIX_ECHO,
        name="quix-same-work",
        title="(e) Quix Streams, same work",
        command=_peer("quix_same_work.py"),
        records=20_000,
        redis_db=1,
    )
)
FAUST_SAME_WORK = _cold_and_warm(
    replace(
        FAUST_ECHO,
        name="faust-same-work",
        title="(f) Faust, same work",
        command=_peer("faust_same_work.py"),
        records=10_000,
        redis_db=2,
    )
)
ALL = [
    BARE,
    BARE_DEFAULTS,
    *HEADRACE,
    FAUST_ECHO,
    QUIX_ECHO,
    MLSERVER,
    *QUIX_SAME_WORK,
    *FAUST_SAME_WORK,
]
