"""``airlab ps``, ``load`` and ``unload`` against a running AirLab, found as a user would leave it to be found."""

from __future__ import annotations

import json

from tests.cli.conftest import Call
from tests.conftest import MakeLab
from tests.support.service import ADMIN_KEY, KEYS


def test_models_are_shown_loaded_and_unloaded(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab(models={"small": {"aliases": ["tiny"]}, "other": {}}, missing=("other",))
    with lab.serve() as service:
        port = {"AIRLAB_PORT": service.url.rpartition(":")[2]}
        shown = call(lab, "ps", **port)
        assert (shown.returncode, shown.stdout) == (0, "* small: stopped\n  other: stopped\n")

        loaded = call(lab, "load", "tiny", **port)
        assert loaded.returncode == 0
        assert loaded.stdout.startswith("small is ready after ")
        assert "* small: ready for " in call(lab, "ps", **port).stdout
        assert "0 of 1 slots busy, 0 waiting" in call(lab, "ps", **port).stdout

        unloaded = call(lab, "unload", "small", **port)
        assert (unloaded.returncode, unloaded.stdout) == (0, "small is unloaded\n")
        assert service.model()["state"] == "stopped"

        refused = call(lab, "load", "other", **port)
        assert refused.returncode == 1
        assert str(lab.weights("other")) in refused.stderr

        unknown = call(lab, "load", "a/b c", **port)
        assert unknown.returncode == 1
        assert unknown.stderr.startswith("airlab: ")


def test_load_beside_and_for_a_time(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab(models={"small": {}, "other": {}})
    with lab.serve() as service:
        port = {"AIRLAB_PORT": service.url.rpartition(":")[2]}
        assert call(lab, "load", "small", "--keep-alive", "2h", **port).returncode == 0
        beside = call(lab, "load", "other", "--beside", **port)
        wrong = call(lab, "load", "other", "--keep-alive", "soon", **port)

    assert beside.returncode == wrong.returncode == 1
    assert "other cannot be loaded beside what is loaded: every place is taken" in beside.stderr
    assert "keep_alive" in wrong.stderr


def test_url_and_key_of_another_airlab(make_lab: MakeLab, call: Call) -> None:
    lab = make_lab(environment=KEYS)
    with lab.serve(key=ADMIN_KEY) as service:
        rows = json.loads(call(lab, "ps", "--json", "--url", f"{service.url}/").stdout)
        assert [row["key"] for row in rows["models"]] == ["small"]

        refused = call(lab, "ps", "--url", service.url, AIRLAB_ADMIN_KEY="wrong")
        assert refused.returncode == 1
        assert "no key of this AirLab" in refused.stderr


def test_nobody_there_is_said_in_a_sentence(make_lab: MakeLab, call: Call) -> None:
    for arguments in (("ps",), ("load", "small"), ("ps", "--url", "localhost:1"), ("ps", "--url", "no url")):
        done = call(make_lab(), *arguments, AIRLAB_PORT="1")
        assert (done.returncode, done.stdout) == (1, "")
        assert "no AirLab answers at" in done.stderr
        assert "Traceback" not in done.stderr


def test_key_goes_to_airlab_and_to_no_proxy_of_the_environment(make_lab: MakeLab, call: Call) -> None:
    """A proxy would be sent the admin key in plain text."""
    lab = make_lab(environment=KEYS)
    with lab.serve(key=ADMIN_KEY) as service:
        proxied = {"HTTP_PROXY": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"}
        assert call(lab, "ps", "--url", service.url, **proxied).returncode == 0
