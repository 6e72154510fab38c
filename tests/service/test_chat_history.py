"""A long history on engines that really count: it is cut to the budget, the newest message never."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chat.talk import client, configure, said, say, session, streamed, visible
from tests.conftest import REAL_ENGINES
from tests.support.service import EngineKind, Service, temporary_lab

BUDGET_TOKENS = 160
SYSTEM = "Answer with one word."
SYSTEM_TOKENS = 40
"""More than the system prompt and the template's own tokens take."""
SENTENCE = "The quick brown fox jumps over the lazy dog, and number {} of them is called Bernd."


@pytest.fixture(scope="module", params=REAL_ENGINES)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """A small budget, and a second model of the same file."""
    kind: EngineKind = request.param
    models = {"small": {"context_length": 1024}, "other": {"context_length": 512}}
    with temporary_lab(kind, models=models) as lab:
        configure(lab, chat={"max_conversation_tokens": BUDGET_TOKENS}, defaults={"system_prompt": SYSTEM})
        with lab.serve() as service:
            yield service


def tokens(service: Service, text: str) -> int:
    """A text's length as the engine counts it."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
    counted: int = service.http.post("/v1/chat/completions", json=body).json()["usage"]["prompt_tokens"]
    return counted


def test_prompt_keeps_to_the_budget_while_the_conversation_grows(service: Service) -> None:
    talk = client(service, "long", max_tokens=4, temperature=0)
    prompts = []
    for number in range(10):
        talk.say(SENTENCE.format(number))
        assert visible(service, "long") == talk.messages
    for number in range(10, 14):
        answer = said(service, SENTENCE.format(number), session_id="long", max_tokens=4, temperature=0)
        prompts.append(answer["tokens_input"])

    assert max(prompts) <= BUDGET_TOKENS + SYSTEM_TOKENS
    assert max(prompts) > BUDGET_TOKENS * 0.7
    assert len(visible(service, "long")) == 28, "what is cut is only not shown"


def test_length_of_a_prompt_is_foretold_to_a_few_tokens(service: Service) -> None:
    """The budget is worth as much as the count: too low and the engine refuses, too high and history is lost."""
    texts = [SENTENCE.format(number) for number in range(3)]
    for text in texts[:2]:
        said(service, text, session_id="counted", max_tokens=4, temperature=0)
    answer = said(service, texts[2], session_id="counted", max_tokens=4, temperature=0)

    shown = visible(service, "counted")
    body = {"messages": [{"role": "system", "content": SYSTEM}, *shown[:-1]], "max_tokens": 1}
    usage = service.http.post("/v1/chat/completions", json=body).json()["usage"]
    assert answer["tokens_input"] == usage["prompt_tokens"]


@pytest.mark.parametrize("stream", [True, False])
def test_newest_message_that_alone_is_too_long_is_refused_and_the_conversation_goes_on(
    service: Service, stream: bool
) -> None:
    name, long = f"too long {stream}", SENTENCE.format(1) * 20
    said(service, "Hi!", session_id=name, max_tokens=4)
    if stream:
        events = streamed(service, long, session_id=name, max_tokens=4)
        error = events[-1][1]["error"]
        assert events[-1][0] == "error"
    else:
        answer = say(service, long, session_id=name, max_tokens=4)
        assert answer.status_code == 400
        error = answer.json()["error"]

    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert "maximum context length" in error["message"]
    after = said(service, "Still there?", session_id=name, max_tokens=4)
    assert after["notices"] == ["the turn before this one was failed"]
    assert [message["content"] for message in visible(service, name)[::2]] == ["Hi!", "Still there?"]


def test_client_that_keeps_a_message_that_was_too_long_can_go_on(service: Service) -> None:
    """The documented client does: what failed goes out again with the next message."""
    talk = client(service, "kept", max_tokens=4, temperature=0)
    talk.say("Hi!")
    with pytest.raises(RuntimeError, match="maximum context length"):
        talk.say(SENTENCE.format(1) * 20)

    assert talk.say("Never mind.")
    assert visible(service, "kept") == talk.messages


def test_message_as_long_as_the_budget_allows_is_taken(service: Service) -> None:
    fitting = next(n for n in range(9, 0, -1) if tokens(service, SENTENCE.format(1) * n) <= BUDGET_TOKENS)
    answer = said(service, SENTENCE.format(1) * fitting, session_id="brim", max_tokens=4)

    assert answer["tokens_input"] <= BUDGET_TOKENS + SYSTEM_TOKENS


def test_long_answer_leaves_half_the_context_to_the_conversation(service: Service) -> None:
    """max_tokens is 2048 where nothing is said, which is more than many contexts hold."""
    body = {
        "messages": [{"role": "user", "content": "Hi!"}],
        "session_id": "half",
        "max_tokens": 100_000,
        "temperature": 0,
        "model": "other",
    }
    with service.http.stream("POST", "/chat", json={**body, "stream": True}) as answer:
        assert answer.status_code == 200
        assert any("event: token" in line for line in answer.iter_lines())


def test_switch_of_the_model_keeps_the_conversation(service: Service) -> None:
    first = said(service, "My name is Bernd.", session_id="switch", max_tokens=4, temperature=0)
    service.http.post("/model/switch", json={"model_key": "other"}).raise_for_status()
    second = said(service, "What is my name?", session_id="switch", max_tokens=4, temperature=0)
    third = said(service, "And now?", session_id="switch", max_tokens=4, temperature=0, model="small")
    service.http.post("/model/switch", json={"model_key": "small"}).raise_for_status()

    assert [answer["model"] for answer in (first, second, third)] == ["small", "other", "small"]
    assert first["tokens_input"] < second["tokens_input"] < third["tokens_input"]
    assert [turn["model"] for turn in session(service, "switch")["turns"]] == ["small", "other", "small"]
    assert len(visible(service, "switch")) == 6
