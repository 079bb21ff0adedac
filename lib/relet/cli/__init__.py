"""The programs: arguments, output, signals and exit codes around the broker and its two libraries.

Nothing here decides anything about jobs, and nothing below this room reads an argument, the environment or a terminal.
`--help` has to be instant, so modules of this room import zmq, structlog and rich only where they are used.
"""
