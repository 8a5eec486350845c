"""workers/calls/failed_inputs.py: a bounded memory of inputs that failed."""

from schemas.errors import BackendFailedError
from workers.calls.failed_inputs import KEPT_SECONDS, MAX_INPUTS, FailedInputs


def test_an_input_is_remembered_for_a_while() -> None:
    """Its error is found by its digest, from the second failure on; another one prolongs it."""
    failed = FailedInputs()
    error, later = BackendFailedError("shape"), BackendFailedError("again")
    failed.add(b"a", error, now=0.0)
    assert failed.find([b"a"], now=0.0) == {}
    failed.add(b"a", error, now=0.0)
    failed.add(b"b", error, now=0.5)
    failed.add(b"b", error, now=1.0)
    assert failed.find([b"x", b"a", b"b", b"a"], now=1.0) == {1: error, 2: error, 3: error}
    failed.add(b"a", later, now=2.0)
    assert failed.find([b"a", b"b"], now=1.5 + KEPT_SECONDS) == {0: later}
    assert failed.find([b"a"], now=2.0 + KEPT_SECONDS) == {}
    assert not failed


def test_the_newest_are_kept() -> None:
    """However many fail."""
    failed = FailedInputs()
    error = BackendFailedError("shape")
    for number in range(MAX_INPUTS + 3):
        failed.add(b"%d" % number, error, now=0.0)
        failed.add(b"%d" % number, error, now=0.0)
    assert failed.find([b"0", b"2", b"3", b"%d" % (MAX_INPUTS + 2)], now=1.0) == {2: error, 3: error}
