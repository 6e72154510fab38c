"""The log of an engine: while it runs, after it died, and as it comes."""

from __future__ import annotations

import json
from typing import Any

from app.cli.logs import events
from tests.conftest import MakeLab
from tests.support.service import wait_until


def test_last_lines_are_shown_while_it_runs_and_after_it_died(make_lab: MakeLab) -> None:
    lab = make_lab("embedded")
    with lab.serve() as service:
        nothing = service.http.get("/models/small/logs").raise_for_status().json()
        assert nothing == {"model_key": "small", "instance": None, "running": False, "lines": []}
        # By a request: one that was loaded by hand would be started anew in a moment, and its log be another.
        assert service.chat().status_code == 200
        # Its log comes by another way than its answers.
        told = wait_until(lambda: _when_told(service.http.get("/models/small/logs").json()), "the engine has said it")
        assert told["running"]

        service.engine().kill()
        service.until_model("small", lambda row: row["pid"] is None, "the engine is gone")
        after = service.http.get("/models/small/logs").json()
        assert (after["instance"], after["running"]) == (told["instance"], False)
        assert after["lines"][: len(told["lines"])] == told["lines"]

        shown = lab.run("logs", "small", "-n", "2", "--url", service.url)
        assert shown.returncode == 0, shown.stderr
        assert len(shown.stdout.splitlines()) == 2
        unknown = lab.run("logs", "nobody", "-f", "--url", service.url)
        assert unknown.returncode == 1
        assert "no model" in unknown.stderr


def _when_told(body: dict[str, Any]) -> dict[str, Any] | None:
    return body if body["lines"] else None


def test_follower_sees_the_next_engine_begin(make_lab: MakeLab) -> None:
    with make_lab("embedded").serve() as service:
        service.http.post("/models/small/load").raise_for_status()
        with service.http.stream("GET", "/models/small/logs", params={"follow": "true", "tail": "0"}) as stream:
            told = events(stream.iter_lines())
            kind, first = next(told)
            assert (kind, first["running"]) == ("engine", True)
            service.http.post("/models/small/unload").raise_for_status()
            engines = (values for kind, values in told if kind == "engine")
            assert next(engines) == {"instance": first["instance"], "running": False}
            service.http.post("/models/small/load").raise_for_status()
            later = next(engines)
            assert later["running"]
            assert later["instance"] > first["instance"]
            assert next(values for kind, values in told if kind == "line")["line"]


def test_stop_ends_every_follower(make_lab: MakeLab) -> None:
    lab = make_lab("fake")
    with lab.serve() as service, service.http.stream("GET", "/models/small/logs", params={"follow": "true"}) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: engine"
        service.process.terminate()
        assert json.loads(next(lines).removeprefix("data: "))["instance"] is None
        assert all(line == "" or line.startswith((":", "event", "data")) for line in lines)
        assert service.wait() == 0
