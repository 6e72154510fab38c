"""Ties a process to its parent, then becomes the program it was asked for.

Run as ``python -I -S tether.py PARENT_PID PROGRAM ARGS...``: asks the kernel to kill this process when its parent dies
(PR_SET_PDEATHSIG survives exec), gives up the chance of new privileges, checks that the parent did not die in between,
and execs. Not ``preexec_fn``: that runs Python between fork and exec of a process with threads. Not ``setpriv``: it
does not look whether the parent is already gone. Elsewhere than on Linux only the exec happens, and a child notices
its parent's death by the end of its standard input.

Imports the standard library only, and little of it: this runs at each start of a model.
"""

import os
import sys

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _SIGKILL = 1, 38, 9


def main() -> None:
    """Tie, check, exec; exit 127 with a line on standard error where one of them fails."""
    parent, program = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 # 10 ms that other systems need not pay

        prctl = ctypes.CDLL(None, use_errno=True).prctl
        for option, value in ((_PR_SET_PDEATHSIG, _SIGKILL), (_PR_SET_NO_NEW_PRIVS, 1)):
            if prctl(option, value, 0, 0, 0) != 0:
                sys.exit(f"tether: prctl({option}) failed: {os.strerror(ctypes.get_errno())}")
        if os.getppid() != parent:
            sys.exit("tether: the parent died before its child began")
    try:
        os.execvp(program, sys.argv[2:])  # noqa: S606 # becoming that program is the point; no shell is involved
    except OSError as exc:
        sys.stderr.write(f"tether: cannot run {program}: {exc.strerror}\n")
        sys.exit(127)


main()
