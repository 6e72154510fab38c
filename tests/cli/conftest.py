"""Calls the command line in this process: a second faster each time than a process of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from app.cli.main import run
from tests.support.service import Lab

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """``call(lab, *arguments, **environment)``: what ``Lab.run`` does, for commands that serve nothing."""

    def airlab(lab: Lab, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patched:
            for name in tuple(os.environ):
                patched.delenv(name)
            for name, value in {**lab.full_environment, **environment}.items():
                patched.setenv(name, value)
            try:
                code = run(list(arguments))
            except SystemExit as exc:
                code = int(exc.code or 0)
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, printed.out, printed.err)

    return airlab
