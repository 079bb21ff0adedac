"""The command line: run the scenarios in rounds, print the table, write everything down.

    python -m benchmarks                        all of it, about a quarter of an hour
    python -m benchmarks --quick                about three minutes; the million becomes a hundred thousand
    python -m benchmarks --only w200,deaths     some of it (--list names them)
    python -m benchmarks --against COMMAND      only plain jobs, through this broker and another one in turns

A bar that is missed is shown and changes nothing; the exit code is 1 when something could not be measured, 2 for a
wrong command line, 130 after Ctrl-C (the table then shows what there was).
"""

import argparse
import contextlib
import datetime as dt
import json
import platform
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import zmq

from benchmarks import (
    backlog,
    deaths,
    devices,
    durable,
    flows,
    libraries,
    load,
    policies,
    procfs,
    targets,
    timers,
    user_test,
)
from benchmarks.before import Before
from benchmarks.figures import Sample, markdown, table
from benchmarks.scenario import Scenario, Setting

SCENARIOS: tuple[Scenario, ...] = (
    *flows.PIPELINED, flows.Waiting(), flows.Running(), *timers.TIMEOUTS, *deaths.DEATHS, timers.Idle(),
    *policies.POLICIES, *durable.DURABLE, *backlog.BACKLOGS, *libraries.LIBRARIES,
    *devices.DEVICES, *user_test.USER_TESTS,
)
AGAINST: Scenario = Before()
"""What --against adds, and does alone where nothing else is asked for."""
ROUNDS = 9
ROUNDS_QUICK = 2
DISTURBED_MAX = 0.05
"""Share of the machine that others may use before the table says so: two peers on two CPUs leave nothing to spare."""
EXIT_NOT_MEASURED = 1
EXIT_INTERRUPTED = 130
FILES_WANTED = 8192
"""Open files: a crowd of workers in one process, and as many connections to the broker, need a few thousand."""


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        prog="benchmarks",
        description="Measure the broker beside libzmq's own proxy.",
        epilog="Scenarios: " + ", ".join(scenario.name for scenario in SCENARIOS),
    )
    parser.add_argument("--quick", action="store_true", help=f"a short run: fewer jobs, {ROUNDS_QUICK} rounds")
    parser.add_argument("--only", metavar="NAME,...", help="only these scenarios")
    parser.add_argument("--rounds", type=int, metavar="N",
                        help=f"rounds (default {ROUNDS}; long scenarios take part in 1 to 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", default=load.BUILD / "latest.json",
                        help="where to write every figure (default: %(default)s)")
    parser.add_argument("--broker", default=shlex.join(targets.BROKER), metavar="COMMAND",
                        help="another broker with the same command line (default: %(default)s)")
    parser.add_argument("--against", metavar="COMMAND", default="",
                        help="a broker to compare with, such as that of an older checkout:"
                             f" the scenario {AGAINST.name}, and only that unless --only names others")
    parser.add_argument("--markdown", action="store_true", help="print the table for a document")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    chosen = parser.parse_args(words)
    names = [scenario.name for scenario in SCENARIOS]
    if chosen.against:
        names, chosen.only = [*names, AGAINST.name], chosen.only or AGAINST.name
    chosen.scenarios = [name.strip() for name in chosen.only.split(",")] if chosen.only else names
    if AGAINST.name in chosen.scenarios and not chosen.against:
        parser.error(f"{AGAINST.name} compares with another broker: say which, --against COMMAND")
    if unknown := [name for name in chosen.scenarios if name not in names]:
        parser.error(f"no scenario {', '.join(unknown)}; there are: {', '.join(names)}")
    chosen.rounds = (ROUNDS_QUICK if chosen.quick else ROUNDS) if chosen.rounds is None else chosen.rounds
    if chosen.rounds < 1:
        parser.error("--rounds must be at least 1")
    return chosen


def versions(broker: Sequence[str]) -> dict[str, str]:
    """What is measured and with what: what the broker says of itself, and what we use."""
    said = subprocess.run([*broker, "--version"], capture_output=True, text=True, check=False, cwd=targets.ROOT)
    with targets.broker(broker) as target:
        pump = target.pump
    return {
        "relet": found[1] if (found := re.match(r"relet (\S+?),?\s", said.stdout)) else "(does not say)",
        "pump": pump,
        "pyzmq": zmq.pyzmq_version(),
        "libzmq": zmq.zmq_version(),
        "python": platform.python_version(),
    }


def run(chosen: argparse.Namespace) -> int:
    """Measure, print, write. Returns the exit code."""
    setting = Setting(broker=shlex.split(chosen.broker), quick=chosen.quick, against=shlex.split(chosen.against))
    scenarios = [scenario for scenario in (*SCENARIOS, AGAINST) if scenario.name in chosen.scenarios]
    load.build()
    about: dict[str, Any] = {
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "versions": versions(setting.broker),
        "machine": procfs.machine(),
        "quick": chosen.quick,
        "rounds": chosen.rounds,
    }
    for key in ("versions", "machine"):
        print("   ".join(f"{name} {value}" for name, value in about[key].items()), file=sys.stderr)
    samples: dict[str, list[Sample]] = {scenario.name: [] for scenario in scenarios}
    failures: dict[str, str] = {}
    begun, disturbance = time.monotonic(), procfs.Disturbance()
    interrupted = False
    try:
        for number in range(1, chosen.rounds + 1):
            for scenario in scenarios:
                if number <= scenario.rounds_max and scenario.name not in failures:
                    _measure(scenario, setting, number, samples[scenario.name], failures)
    except KeyboardInterrupt:
        interrupted = True
        print("\ninterrupted: what follows is what there is so far", file=sys.stderr)
    figures = [
        figure for scenario in scenarios if samples[scenario.name] and scenario.name not in failures
        for figure in scenario.figures(samples[scenario.name])
    ]
    print(markdown(figures) if chosen.markdown else table(figures))
    missed = [figure for figure in figures if figure.verdict == "MISSED"]
    barred = [figure for figure in figures if figure.verdict]
    print(f"\n{len(barred) - len(missed)} of {len(barred)} bars reached; {time.monotonic() - begun:.0f} s.")
    disturbed = disturbance.share()
    if disturbed > DISTURBED_MAX:
        print(f"Other programs used {disturbed:.0%} of the machine meanwhile: judge with care, or measure again.")
    for name, why in failures.items():
        print(f"NOT MEASURED {name}: {why}")
    about |= {
        "seconds": round(time.monotonic() - begun, 1),
        "disturbed": round(disturbed, 3),
        "figures": [figure.as_json() for figure in figures],
        "failures": failures,
        "samples": samples,
    }
    chosen.json.parent.mkdir(parents=True, exist_ok=True)
    chosen.json.write_text(json.dumps(about, indent=1) + "\n")
    print(f"every figure: {chosen.json}", file=sys.stderr)
    if interrupted:
        return EXIT_INTERRUPTED
    return EXIT_NOT_MEASURED if failures else 0


def _measure(
    scenario: Scenario, setting: Setting, number: int, samples: list[Sample], failures: dict[str, str]
) -> None:
    begun, disturbance = time.monotonic(), procfs.Disturbance()
    try:
        measured = list(scenario.measure(setting))  # all targets of a round, or none of them
        about = {"scenario": scenario.name, "round": number, "disturbed": round(disturbance.share(), 3)}
        samples.extend({**about, **sample} for sample in measured)
    except (RuntimeError, OSError, zmq.ZMQError) as error:
        failures[scenario.name] = f"{type(error).__name__}: {error}"
    others = f", others {disturbance.share():.0%}" if disturbance.share() > DISTURBED_MAX else ""
    outcome = failures.get(scenario.name) or f"{time.monotonic() - begun:.1f} s{others}"
    print(f"round {number}: {scenario.name}: {outcome}", file=sys.stderr)


def _end(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main(words: Sequence[str] | None = None) -> int:
    """Entry point; see the top of this file."""
    chosen = arguments(sys.argv[1:] if words is None else words)
    if chosen.list:
        print("\n".join(scenario.name for scenario in (*SCENARIOS, AGAINST)))
        return 0
    signal.signal(signal.SIGTERM, _end)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, FILES_WANTED)), hard))
    try:
        return run(chosen)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (load.LoadError, targets.TargetError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return EXIT_NOT_MEASURED


if __name__ == "__main__":
    sys.exit(main())
