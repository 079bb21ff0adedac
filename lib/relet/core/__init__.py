"""The room that decides: jobs, queue, leases, roster, and the machine that owns them. It does no I/O and knows no
clock.
"""

from relet import compiled

compiled.extend(__path__)
