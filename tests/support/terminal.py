"""A terminal with somebody at it: types into a program, and reads what stands on the screen.

A real pseudo-terminal, which the program controls, and pyte, which draws what it writes; so what is compared is what a
person would see. Leaving the block ends the program, whatever it does.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyte

from tests.support.service import BOUND_S

ENTER, CTRL_C, CTRL_D, CTRL_J, UP, TAB = "\r", "\x03", "\x04", "\n", "\x1b[A", "\t"
_LOOK_S = 0.05


class _Screen(pyte.HistoryScreen):
    """Answers when the program asks where the cursor is, as terminals do."""

    def __init__(self, columns: int, rows: int, answer: int) -> None:
        super().__init__(columns, rows, history=2000, ratio=0.5)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        os.write(self._answer, data.encode())


class Terminal:
    """The program's screen and keyboard."""

    def __init__(self, process: subprocess.Popen[bytes], master: int, columns: int, rows: int) -> None:
        self.process, self.columns = process, columns
        self.written = b""
        self._master = master
        self._screen = _Screen(columns, rows, master)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def lines(self) -> list[str]:
        """What stands on the screen, without what is empty at its end."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def everything(self) -> str:
        """What scrolled away, and the screen below it."""
        above = [self._line(line) for line in self._screen.history.top]
        return "\n".join([*above, *self.lines])

    def _line(self, cells: Mapping[int, pyte.screens.Char]) -> str:
        return "".join(cells[column].data for column in range(self.columns)).rstrip()

    def shows(self, words: str) -> bool:
        """Whether these words stand anywhere, wherever lines are broken."""
        return " ".join(words.split()) in " ".join(self.everything.split())

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def paste(self, text: str) -> None:
        """Paste, as a terminal does that was asked to mark it."""
        self.type(f"\x1b[200~{text}\x1b[201~")

    def until(self, words: str, *, bound_s: float = BOUND_S) -> str:
        """Wait until these words stand anywhere, and return everything; fails after ``bound_s`` with the screen."""
        ends_s = time.monotonic() + bound_s
        over = False
        while not self.shows(words):
            if over or time.monotonic() > ends_s:
                why = "the program ended" if over else f"not within {bound_s:.0f} s"
                raise AssertionError(f"{why}: {words!r}\n{self.everything}")
            over = self._read()
        return self.everything

    def until_screen(self, words: str, *, bound_s: float = BOUND_S) -> list[str]:
        """The same, on the screen of now."""
        ends_s = time.monotonic() + bound_s
        while not any(words in line for line in self.lines):
            over = self._read()
            if over or time.monotonic() > ends_s:
                raise AssertionError(f"not on the screen: {words!r}\n{self.everything}")
        return self.lines

    def clear(self) -> None:
        """Forget what stands there, so that the next ``until`` waits for what is new; the program does not see it."""
        self._screen.history.top.clear()
        self._screen.reset()

    def ended(self, bound_s: float = BOUND_S) -> int:
        """Its exit code, once it has ended."""
        ends_s = time.monotonic() + bound_s
        while not self._read():
            assert time.monotonic() < ends_s, f"still there after {bound_s:.0f} s\n{self.everything}"
        return self.process.wait(bound_s)

    def _read(self) -> bool:
        """Draw what has come; whether the program has closed its end."""
        # Asked first: what it writes between a look in vain and its end is there at the next look.
        over = self.process.poll() is not None
        ready, _, _ = select.select([self._master], [], [], _LOOK_S)
        if not ready:
            return over
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux says so when nobody holds the other end
            return True
        self.written += data
        self._stream.feed(data)
        return not data


@contextmanager
def at_terminal(
    command: Sequence[str], *, environment: Mapping[str, str], folder: Path, columns: int = 80, rows: int = 24
) -> Iterator[Terminal]:
    """Run a program on a terminal of its own."""
    master, slave = os.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        # setsid makes it the terminal's controller, so that Ctrl-C reaches it; it forks nothing here.
        process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env={"TERM": "xterm-256color", **environment},
        )
    finally:
        os.close(slave)
    try:
        yield Terminal(process, master, columns, rows)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(BOUND_S)
        os.close(master)
