"""The line that shows how a download comes."""

from __future__ import annotations

from typing import Any

import pytest

from app.cli.pulling import progress_line

GIB = 2**30


def job(**more: Any) -> dict[str, Any]:
    sizes = {"done_bytes": GIB, "total_bytes": 4 * GIB, "bytes_per_s": 50 * 2**20, "eta_s": 61.4}
    return {"state": "downloading", "message": None, **sizes, **more}


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (job(), " 25 %  1.0 GiB of 4.0 GiB, 50.0 MiB/s, 1 m 1 s left"),
        (job(eta_s=None, bytes_per_s=0), " 25 %  1.0 GiB of 4.0 GiB, 0 B/s"),
        (job(state="resolving", total_bytes=None), "resolving"),
        (job(state="verifying"), "verifying"),
        (job(message="trying again in 4 s: the server answered 503"), "trying again in 4 s: the server answered 503"),
    ],
)
def test_progress_is_one_line(told: dict[str, Any], shown: str) -> None:
    assert progress_line(told) == shown


def test_words_of_a_server_steer_no_terminal() -> None:
    assert progress_line(job(message="\x1b[2Jgone")).isprintable()
