"""Benchmarks: what a job costs the broker, measured beside what libzmq's own proxy costs in the same minutes.

Absolute figures say more about a machine than about a program; on a shared one they move by half from hour to hour.
So everything is measured against something that runs beside it: the proxy, which forwards and decides nothing; the
same broker with a thousand jobs open instead of a million. The two stand ready together and take turns in short flows;
each round has fresh processes, and what counts is the median over the rounds.

The cost that matters is the broker's CPU per job (user and system, all threads): rate and latency follow from it.
Where a user waits for relet's own libraries, they are measured beside what Python has in their place.

    load.c        plays clients and workers, in both dialects; load.py builds and drives it. Parts of it:
                  messagepack.h; terms.h (what is said of a job); waits.h (how long single jobs wait)
    proxy.py      the physical limit
    targets.py    starts and stops what is measured
    procfs.py     reads CPU, memory and wake-ups of a process
    flows.py      jobs that flow: alone, hundreds under way, past a million others
    policies.py   what policies cost; a tenant beside another that has far more; a million delayed jobs
    timers.py     lateness of timeouts; the idle broker
    deaths.py     kill -9 of a worker, or its freezing, to the job's next start; peers.py plays the workers
    libraries.py  Client, broker and one Worker; users.py is the programs
    before.py     the same flows through another broker (--against), in turns
    figures.py    medians, bars, the table
    __main__.py   the command line and the rounds
"""
