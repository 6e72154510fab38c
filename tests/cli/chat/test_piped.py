"""``airlab chat`` without a terminal: for scripts."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.cli.conftest import Call
from tests.support.service import ADMIN_KEY, BOUND_S, KEYS, ROOT, USE_KEY, Lab, Service, temporary_lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A model that says again what was said to it."""
    with temporary_lab("fake", models={"small": {}, "other": {}}, environment=KEYS) as lab:
        for key in ("small", "other"):
            lab.fault(key, echo=True)
        yield lab


@pytest.fixture(scope="module")
def service(lab: Lab) -> Iterator[Service]:
    with lab.serve(key=ADMIN_KEY) as service:
        yield service


Piped = Callable[..., tuple[int, str, str]]


@pytest.fixture
def piped(lab: Lab, service: Service, call: Call, monkeypatch: pytest.MonkeyPatch) -> Piped:
    """``piped(*arguments, stdin=b"", **environment)``: exit code, standard output, standard error."""

    def chat(*arguments: str, stdin: bytes = b"", **environment: str) -> tuple[int, str, str]:
        with monkeypatch.context() as patched:
            patched.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            told = {"AIRLAB_PORT": service.url.rpartition(":")[2], **environment}
            done = call(lab, "chat", *arguments, **told)
        return done.returncode, done.stdout, done.stderr

    return chat


def test_answer_alone_is_printed(piped: Piped) -> None:
    assert piped(stdin=b"hi there\n") == (0, "hi there\n", "")


def test_words_of_the_command_line_come_before_what_is_piped(piped: Piped) -> None:
    assert piped("Sum", "up:", stdin=b"a b") == (0, "Sum up:\n\na b\n", "")


def test_conversation_goes_on_where_it_is_named_and_only_there(piped: Piped, service: Service) -> None:
    for words in ("one", "two"):
        assert piped("--session", "piped", words)[0] == 0
    with_key = {"authorization": f"Bearer {USE_KEY}"}
    stored = service.http.get("/sessions/piped", headers=with_key).json()["messages"]
    assert [message["content"] for message in stored] == ["one", "one", "two", "two"]


def test_json_is_what_the_route_answers(piped: Piped, service: Service) -> None:
    code, out, _ = piped("--json", "--model", "other", "--max-tokens", "8", "hi")
    answer = json.loads(out)
    body = {"messages": [{"role": "user", "content": "hi"}]}
    route = service.http.post("/chat", json=body).json()

    assert code == 0
    assert (answer["response"], answer["model"], answer["finish_reason"]) == ("hi", "other", "stop")
    assert route.keys() - answer.keys() == set()


def test_remote_airlab_is_named_by_its_url_and_key(piped: Piped, service: Service) -> None:
    assert piped("--url", service.url, "hi", AIRLAB_PORT="1") == (0, "hi\n", "")
    code, out, err = piped("--url", service.url, "hi", AIRLAB_PORT="1", AIRLAB_API_KEY="wrong")
    assert (code, out) == (1, "")
    assert "no key of this AirLab" in err


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "words"),
    [
        ((), b"  \n", 1, "nothing was said"),
        (("--model", "nope", "hi"), b"", 1, "nope"),
        (("--url", "http://127.0.0.1:1", "hi"), b"", 1, "no AirLab answers at"),
        (("--max-tokens", "many", "hi"), b"", 2, "usage: airlab chat"),
        (("--max-tokens", "0", "hi"), b"", 1, "max_tokens"),
    ],
    ids=["nothing", "model", "away", "misused", "refused"],
)
def test_failure_is_a_sentence_and_an_exit_code(
    piped: Piped, arguments: tuple[str, ...], stdin: bytes, code: int, words: str
) -> None:
    done = piped(*arguments, stdin=stdin)
    assert (done[0], done[1]) == (code, "")
    assert words in done[2]
    assert "Traceback" not in done[2]


def test_control_sequences_reach_no_pipe_either(piped: Piped) -> None:
    assert piped(stdin=b"safe\x1b[31m and\x07 sound") == (0, "safe and sound\n", "")


def test_reader_that_goes_away_ends_it_quietly(lab: Lab, service: Service) -> None:
    told = {**lab.full_environment, "AIRLAB_PORT": service.url.rpartition(":")[2]}
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-m", "app", "chat", "hi"]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=told,
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=BOUND_S,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_on_a_terminal_without_words_and_into_a_pipe_it_says_what_is_missing(lab: Lab, service: Service) -> None:
    master, slave = os.openpty()
    try:
        told = {**lab.full_environment, "AIRLAB_PORT": service.url.rpartition(":")[2]}
        command = [sys.executable, "-m", "app", "chat"]
        done = subprocess.run(
            command, cwd=ROOT, env=told, stdin=slave, capture_output=True, timeout=BOUND_S, check=False
        )
    finally:
        os.close(master)
        os.close(slave)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"say something" in done.stderr
