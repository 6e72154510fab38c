"""``airlab models pull``: asks the running AirLab to download a model, and shows how it comes."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any
from urllib.parse import quote

from app.cli.main import DONE, INTERRUPTED
from app.cli.remote import connected, read
from app.devices.ask import printable
from app.errors import DownloadError
from app.units import format_bytes, format_duration

_EVERY_S, _LINE_EVERY_S = 0.5, 10.0
_ENDED = frozenset({"done", "failed", "cancelled"})


def pull(options: argparse.Namespace) -> int:
    """Download a model; returns when it is there. Ctrl-C leaves the download to the server.

    Raises:
        DownloadError: It ended without the model.
    """
    path = f"/models/{quote(options.model, safe='')}/pull"
    with connected(options) as client:
        if options.cancel:
            job = read(client.delete(path))
            print(f"cancelled; {format_bytes(job['done_bytes'])} that came are kept")
            return DONE
        _warn(read(client.get(f"/models/{quote(options.model, safe='')}/fit")))
        job = read(client.post(path))
        shown = _Shown()
        try:
            while job["state"] not in _ENDED:
                shown.show(job)
                time.sleep(_EVERY_S)
                job = read(client.get(path))
        except KeyboardInterrupt:
            shown.end()
            print(f"the download goes on; `airlab models pull {options.model} --cancel` ends it", file=sys.stderr)
            return INTERRUPTED
        shown.end()
    if job["state"] != "done":
        raise DownloadError(printable(job["message"]))
    print(json.dumps(job) if options.json else _done(options.model, job))
    return DONE


def _warn(fit: dict[str, Any]) -> None:
    """Say, before gigabytes come, that they will be of no use here as it looks now; the owner may know better."""
    if fit.get("fits") is False and fit.get("download_bytes"):
        print(f"warning: {printable(fit['message'])}", file=sys.stderr, flush=True)


def _done(model: str, job: dict[str, Any]) -> str:
    return f"{model} is there: {format_bytes(job['total_bytes'] or job['done_bytes'])} in {printable(job['files'][0])}"


def progress_line(job: dict[str, Any]) -> str:
    """How far a download is: share, bytes, rate, time left; what it does or waits for, where that is something else."""
    if job["message"]:
        return printable(job["message"])
    if job["state"] != "downloading" or not job["total_bytes"]:
        return str(job["state"])
    share = 100 * job["done_bytes"] // job["total_bytes"]
    left = "" if job["eta_s"] is None else f", {format_duration(job['eta_s'])} left"
    rate = f"{format_bytes(job['bytes_per_s'])}/s"
    return f"{share:3d} %  {format_bytes(job['done_bytes'])} of {format_bytes(job['total_bytes'])}, {rate}{left}"


class _Shown:
    """One line that changes on a terminal; a line now and then elsewhere. Nothing on standard output."""

    def __init__(self) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._last_s, self._line = float("-inf"), ""

    def show(self, job: dict[str, Any]) -> None:
        line = progress_line(job)
        if self._on_terminal:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() >= self._last_s + _LINE_EVERY_S and line != self._line:
            print(line, file=sys.stderr, flush=True)
            self._last_s = time.monotonic()
        self._line = line

    def end(self) -> None:
        if self._on_terminal and self._line:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
