"""What a store file looks like, and how an older one becomes today's.

    about     name -> value: the epoch of the broker that has the file, the last turn and the last job number that left
              the log, the last outcome that a bound made it forget, and the key of tokens
    turns     the log: the records of one commit as one MessagePack array, by the number of its turn
    jobs      what outlived its turn's place in the log: one record in a row; key = job number * 8 + tag of the record
    bodies    bodies of such jobs that are not small, by job number: a MessagePack array of frames
    queues    settings of queues, by name
    windows   unique keys that are taken for a while after a success, by job number

To change it: add a step to `STEPS`, never edit one; a step is a list of statements that turns a file of the version
before into one of the next, in one transaction. Make a file of the old version with the old code, put it beside the
others in `tests/store/files/`, and the test that opens them all opens it, too. A record may get further fields at its
end, with defaults, without any of this: older files lack them, and the decoder fills them in.
"""

from __future__ import annotations

from typing import Final

APPLICATION_ID: Final = 0x72656C65
"""Says what kind of SQLite file this is: "rele"."""

STEPS: Final = (
    (
        "create table about (name text primary key, value) without rowid",
        "create table turns (turn integer primary key, records blob not null)",
        "create table jobs (key integer primary key, record blob not null)",
        "create table bodies (number integer primary key, frames blob not null)",
        "create table queues (name text primary key, record blob not null) without rowid",
        "create table windows (number integer primary key, record blob not null)",
        "insert into about values ('epoch', 0)",
    ),
)
VERSION: Final = len(STEPS)
"""The version that this code writes; an empty file has version 0."""

TAGS: Final = 8
"""Rows of `jobs` that one job may have: more than there are tags of records about one job."""
