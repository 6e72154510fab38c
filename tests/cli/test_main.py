"""The command line's outline: what it is called with, and how it says no."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Call
from tests.conftest import MakeLab


@pytest.mark.parametrize(
    "arguments",
    [(), ("nope",), ("serve", "--nope"), ("load",), ("serve", "--port", "many"), ("check", "one", "two")],
    ids=" ".join,
)
def test_misuse_exits_2_with_the_usage(make_lab: MakeLab, call: Call, arguments: tuple[str, ...]) -> None:
    done = call(make_lab(), *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: airlab")


def test_help_names_every_command(make_lab: MakeLab, call: Call) -> None:
    done = call(make_lab(), "--help")

    assert done.returncode == 0
    assert all(f"    {command} " in done.stdout for command in ("serve", "check", "plan", "ps", "load", "unload"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("AIRLAB_PORT", "many"), ("AIRLAB_PORT", "70000"), ("AIRLAB_LOG_LEVEL", "loud"), ("N_GPU_LAYERS", "-2")],
)
def test_bad_variable_is_named_and_exits_1(make_lab: MakeLab, call: Call, name: str, value: str) -> None:
    for command in ("serve", "check", "ps"):
        done = call(make_lab(), command, **{name: value})
        assert done.returncode == 1
        assert name in done.stderr
        assert value in done.stderr
        assert "Traceback" not in done.stderr
