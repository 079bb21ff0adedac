"""The worker's protocol as conversations with itself: no socket, no thread."""

from __future__ import annotations

import pytest

from relet.worker.pace import AHEAD_MAX
from relet.worker.peer2010 import PAUSE_NS, PAUSE_NS_MAX, Job, Peer2010


def connected(ahead: int = 1) -> Peer2010:
    """A peer both of whose connections are there."""
    peer = Peer2010(ahead)
    peer.became_connected()
    peer.answering = True
    return peer


def ask(peer: Peer2010) -> int:
    """Send all asks that are due; how many these were."""
    asks = peer.asks_due()
    peer.asked(asks)
    return asks


def given(peer: Peer2010, *ids: bytes) -> list[Job]:
    """The broker gives jobs with these ids."""
    return peer.received([(b"", id_, b"body of " + id_) for id_ in ids])


def send_all(peer: Peer2010) -> list[tuple[bytes, tuple[bytes, ...]]]:
    """What goes out when the socket takes everything."""
    messages = peer.outgoing(1_000)
    peer.sent(len(messages))
    return messages


@pytest.mark.parametrize("ahead", [0, -1, AHEAD_MAX + 1])
def test_ahead_has_bounds(ahead: int) -> None:
    """A worker asks for one job at least, and for no more than brokers keep."""
    with pytest.raises(ValueError, match="ahead must be between 1 and 1000"):
        Peer2010(ahead)


def test_one_ask_is_one_job_and_the_next_ask_comes_when_it_has_ended() -> None:
    """With `ahead` 1 a busy worker has asked for nothing."""
    peer = connected()
    assert ask(peer) == 1
    assert ask(peer) == 0
    (job,) = given(peer, b"a")
    assert ask(peer) == 0
    assert job.start()
    peer.answered(job, (b"done",))
    assert send_all(peer) == [(b"a", (b"done",))]
    assert ask(peer) == 1


def test_asks_and_held_jobs_together_are_ahead() -> None:
    """Three ahead: three asks, and each job that ends makes room for one more."""
    peer = connected(3)
    assert ask(peer) == 3
    one, two = given(peer, b"a", b"b")
    assert ask(peer) == 0
    peer.answered(one, (b"x",))
    peer.unanswered(two)
    assert ask(peer) == 2
    assert peer.counters.unanswered == 1


def test_a_worker_that_cannot_answer_does_not_ask() -> None:
    """A job whose answer cannot leave is a lost attempt."""
    peer = Peer2010()
    peer.became_connected()
    assert peer.asks_due() == 0
    peer.answering = True
    assert peer.asks_due() == 1


def test_a_failed_handler_retires_the_connection_when_nothing_is_held() -> None:
    """Jobs already held are finished and answered, no more are asked for, then the connection goes."""
    peer = connected(3)
    ask(peer)
    one, two = given(peer, b"a", b"b")
    one.start()
    peer.failed(one)
    assert peer.asks_due() == 0
    assert not peer.retired
    assert two.start()
    peer.answered(two, (b"x",))
    assert peer.retired
    assert send_all(peer) == [(b"b", (b"x",))]
    peer.closed()
    assert not peer.retired
    assert peer.asks_due() == 0
    peer.became_connected()
    assert ask(peer) == 3
    assert peer.counters.losses == 0


def test_lost_answers_retire_the_connection_when_nothing_is_held() -> None:
    """The broker lets again what it still holds of this worker; the job in hand is answered before."""
    peer = connected(2)
    ask(peer)
    (job,) = given(peer, b"a")
    job.start()
    peer.answers_lost()
    assert peer.asks_due() == 0
    assert not peer.retired
    peer.answered(job, (b"x",))
    assert send_all(peer) == [(b"a", (b"x",))]
    assert peer.retired
    assert peer.pause_ns == 0
    peer.closed()
    peer.answers_lost()  # while there is no connection there is none to retire
    assert not peer.retired
    peer.became_connected()
    assert ask(peer) == 2


def test_failures_in_a_row_make_the_pause_longer_and_a_success_ends_it() -> None:
    """The first failure reconnects at once; a handler that always fails does so at most once a second."""
    peer = connected()

    def fail() -> int:
        ask(peer)
        (job,) = given(peer, b"a")
        peer.failed(job)
        assert peer.retired
        peer.closed()
        peer.became_connected()
        return peer.pause_ns

    assert [fail() for _ in range(3)] == [0, PAUSE_NS, 2 * PAUSE_NS]
    for _ in range(20):
        fail()
    assert peer.pause_ns == PAUSE_NS_MAX
    ask(peer)
    peer.answered(given(peer, b"b")[0], (b"x",))
    assert fail() == 0


def test_a_loss_drops_what_was_not_started_and_keeps_the_job_in_hand() -> None:
    """The broker has let the waiting ones again; the answer to the one in hand may still count."""
    peer = connected(3)
    ask(peer)
    in_hand, waiting = given(peer, b"a", b"b")
    assert in_hand.start()
    peer.lost()
    assert not waiting.start()
    assert peer.counters.dropped == 1
    peer.became_connected()
    assert ask(peer) == 2  # the one in hand still takes a place
    peer.answered(in_hand, (b"late",))
    assert send_all(peer) == [(b"a", (b"late",))]
    assert ask(peer) == 1


def test_a_handler_that_fails_a_job_of_an_earlier_connection_retires_nothing() -> None:
    """That connection is gone already, and with it the job."""
    peer = connected()
    ask(peer)
    (job,) = given(peer, b"a")
    job.start()
    peer.lost()
    peer.became_connected()
    peer.failed(job)
    assert not peer.retired
    assert ask(peer) == 1


def test_answers_wait_for_their_connection() -> None:
    """An answer that cannot leave now leaves later, in order, and a partial send loses nothing."""
    peer = connected(2)
    ask(peer)
    one, two = given(peer, b"a", b"b")
    peer.answering = False
    peer.answered(one, (b"1",))
    peer.answered(two, (b"2",))
    assert peer.outgoing(10) == []
    peer.answering = True
    assert len(peer.outgoing(10)) == 2
    peer.sent(1)
    assert send_all(peer) == [(b"b", (b"2",))]


def test_garbage_is_counted_and_kills_nothing() -> None:
    """Messages that are no replies spend no ask, and a job without an ask is not taken."""
    peer = connected()
    ask(peer)
    assert peer.received([(b"",), (b"x", b"id", b"body"), (b"y",), (b"y", b"id")]) == []
    assert peer.counters.frames_refused == 4
    assert peer.asks_due() == 0
    assert len(given(peer, b"a", b"b")) == 1
    assert peer.counters.jobs_refused == 1


def test_a_job_may_have_no_frames() -> None:
    """A body is any number of frames, none included, and such a job spends its ask like any other."""
    peer = connected()
    ask(peer)
    (job,) = peer.received([(b"", b"id")])
    assert (job.id, job.frames) == (b"id", ())
    peer.answered(job, (b"done",))
    assert send_all(peer) == [(b"id", (b"done",))]
    assert ask(peer) == 1


def test_a_reply_that_is_refused_spends_its_ask() -> None:
    """A job without an id cannot be answered, but the broker has taken the ask for it; silence would be for ever."""
    peer = connected()
    ask(peer)
    assert peer.received([(b"", b"", b"body"), (b"", b"")]) == []
    assert peer.counters.frames_refused == 2
    assert ask(peer) == 1


def test_stopping_drops_what_waits() -> None:
    """Nothing is started any more, and nothing is asked for."""
    peer = connected(2)
    ask(peer)
    _, waiting = given(peer, b"a", b"b")
    peer.stopped()
    assert not waiting.start()
    assert peer.asks_due() == 0
    assert peer.held == 0
