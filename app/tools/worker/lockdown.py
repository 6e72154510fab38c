"""Takes from this worker what its one call does not need: after the imports, before the arguments arrive.

The single place for that. Now it takes memory, time, descriptors, writing and the environment; what confines files and
sockets in the kernel (Landlock, seccomp) belongs here, too.
"""

from __future__ import annotations

import math
import os
import resource

from app.tools.base import Confinement

_MEMORY_BYTES = 512 * 1024**2
_OPEN_FILES = 32


def lock_down(confinement: Confinement) -> None:
    """Set the limits of this process, for good. They hold for whatever runs in it from now on."""
    # The interpreter itself adds LC_CTYPE to an empty environment.
    os.environ.clear()
    used = resource.getrusage(resource.RUSAGE_SELF)
    # The wall clock of the caller ends a call in time; this ends a worker whose caller is gone. What the imports took
    # does not count.
    cpu_s = math.ceil(used.ru_utime + used.ru_stime + confinement.limits.call_s) + 1
    for what, limit in (
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, highest = resource.getrlimit(what)
        limit = limit if highest == resource.RLIM_INFINITY else min(limit, highest)  # noqa: PLW2901 # ours, narrowed
        resource.setrlimit(what, (limit, limit))
