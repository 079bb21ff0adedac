"""The account must be able to object: books written by hand, each with one thing that must not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from relet.testing.account import Account, Book, Life, answer_to, body_of, read_book

TRIES = 3


def account(tmp_path: Path, told: str, done: str = "") -> Account:
    """Of a client and a worker that have written these lines; a `#` stands for the moment and the end of a line."""
    for name, text in (("client", told), ("worker", done)):
        lines = [line.strip().replace("#", "1.5 .") for line in text.strip().splitlines()]
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    return Account([tmp_path / "client"], [tmp_path / "worker"], tries=TRIES)


def wrong(found: Account) -> dict[str, list[str]]:
    """What the account objects to."""
    return {kind: names for kind, names in found.complaints().items() if names}


def test_all_is_well(tmp_path: Path) -> None:
    """Answered, failed for good as was meant, and failed when the tries were spent: nothing to object to."""
    found = account(
        tmp_path,
        """attempted a/1 call well,0,0 00 #
        attempted a/2 enqueue final,0,0 00 #
        attempted a/3 enqueue doomed,0,0 00 #
        attempted a/4 call well,0,0 00 #
        acknowledged a/2 #
        finished a/1 answered:w-1 #
        finished a/2 failed:failed:1:1 #
        finished a/3 failed:tries_spent:4:3 #
        again a/1 answered:w-1 #""",
        """began w-1 a/1 #
        ended w-1 answered #
        began w-2 a/1 #
        began w-3 a/2 #
        ended w-3 failed #
        began w-4 a/3 #
        ended w-4 failed #
        began w-5 a/3 #
        ended w-5 failed #
        began w-6 a/3 #
        ended w-6 failed #""",
    )
    assert wrong(found) == {}
    assert (len(found.jobs), found.acknowledged, found.finished, found.asked_again) == (4, 3, 3, 1)
    assert found.repeated == (1, 1)
    assert found.attempts_beyond == 1
    assert found.failed == {"failed": 1, "tries_spent": 1}


ASKED = "attempted a/1 enqueue well,0,0 00 #\n"
RAN = "began w-1 a/1 #\nended w-1 answered #\nbegan w-2 a/2 #\n"


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("lost", "acknowledged a/1 #"),
        ("lost", "acknowledged a/1 #\nunknown a/1 unknown #"),
        ("lost", "finished a/1 answered:w-1 #\nunknown a/1 expired #"),
        ("wrong answers", "finished a/1 wrong:78 #"),
        ("wrong answers", "finished a/1 answered:w-2 #"),
        ("wrong answers", "finished a/1 answered:nobody #"),
        ("false failures", "finished a/1 failed:tries_spent:2:0 #"),
        ("false failures", "finished a/1 failed:tries_spent:3:1 #"),
        ("false failures", "finished a/1 failed:failed:1:0 #"),
        ("false failures", "finished a/1 failed:broker_stopped:0:0 #"),
        ("contradicted", "finished a/1 answered:w-1 #\nagain a/1 failed:tries_spent:3:0 #"),
    ],
)
def test_what_must_not_be_is_found(tmp_path: Path, kind: str, told: str) -> None:
    """Never ended, forgotten, of another job, made by nobody, too early, for a reason that was not given, and twice."""
    found = account(tmp_path, ASKED + told, RAN)
    assert wrong(found) == {kind: ["a/1"]}
    assert found.evidence("a/1").startswith("a/1 (well,0,0): ")


def test_a_job_that_must_fail_and_is_answered(tmp_path: Path) -> None:
    """No run of it can have made an answer."""
    found = account(tmp_path, ASKED.replace("well", "doomed") + "finished a/1 answered:w-1 #", RAN)
    assert wrong(found) == {"wrong answers": ["a/1"]}


def test_what_nobody_had_acknowledged_may_be_unknown(tmp_path: Path) -> None:
    """A client that was killed before it heard, and whose job never came."""
    assert wrong(account(tmp_path, ASKED)) == {}
    found = account(tmp_path, ASKED + "unknown a/1 too_large #")
    assert (wrong(found), found.refused, found.acknowledged) == ({}, {"too_large": 1}, 0)


def test_a_line_without_its_end_is_no_line(tmp_path: Path) -> None:
    """Its process was killed while it wrote; its successor begins a new one."""
    path = tmp_path / "book"
    path.write_text("finished a/1 answered:w-1 1.5 .\nfinished a/2 answ")
    book = Book(path)
    book.write(("acknowledged", "a/3"), ("finished", "a/3", "answered:w-3"))
    book.close()
    assert [line[:2] for line in read_book(path)] == [["finished", "a/1"], ["acknowledged", "a/3"], ["finished", "a/3"]]
    assert list(read_book(tmp_path / "none")) == []


def test_an_answer_proves_that_its_body_was_read() -> None:
    """Bodies differ by the names of their jobs, and answers with them."""
    body = body_of("a/1", "well,0,10")
    assert body == b"a/1 well,0,10 xxxxxxxxxx"
    assert answer_to(body, "w-1") != answer_to(body_of("a/2", "well,0,10"), "w-1")
    assert answer_to(body, "w-1").endswith(b" w-1")


def test_downtime_is_from_the_first_kill_to_the_next_outcome(tmp_path: Path) -> None:
    """A broker that was killed before it told anything does not end an outage."""
    moments = "".join(f"finished a/1 answered:w-1 {moment} .\n" for moment in (1.0, 2.05, 7.0, 9.5))
    found = account(tmp_path, ASKED + moments, RAN)
    lives = [Life(0.5, 2.0), Life(None, 3.0), Life(4.0, 5.0), Life(6.5, 8.0), Life(9.0, 10.0)]
    assert found.downtimes(lives) == [5.0, 1.5]
