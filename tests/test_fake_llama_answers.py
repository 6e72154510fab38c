"""What the stand-in answers: by default, by its script, and broken as its script says."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake import write_fault
from tests.support.fake_engine import CHAT, HELLO, fake_engine, model_file


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_file(tmp_path)


def deltas(events: list[str]) -> list[dict[str, Any]]:
    """The deltas of a chat stream, the usage chunk and the end mark left out."""
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    return [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]


async def test_plain_chat_has_the_shape_of_a_real_answer(model: Path) -> None:
    async with fake_engine(model, "--alias", "qwen") as engine:
        answer = (await engine.chat()).json()

    assert answer["object"] == "chat.completion"
    assert answer["model"] == "qwen"
    message = {"role": "assistant", "content": "word1 word2 word3 word4 word5 word6 word7 word8"}
    assert answer["choices"] == [{"finish_reason": "stop", "index": 0, "message": message}]
    assert answer["usage"]["completion_tokens"] == 8
    assert answer.keys() >= {"id", "created", "system_fingerprint", "timings"}


async def test_streamed_chat_opens_with_the_role_and_ends_with_usage_and_done(model: Path) -> None:
    write_fault(model, tokens=2)
    async with fake_engine(model) as engine:
        plain = await engine.stream()
        counted = await engine.stream(stream_options={"include_usage": True})

    texts = [{"role": "assistant", "content": None}, {"content": "word1"}, {"content": " word2"}, {}]
    assert deltas(plain) == deltas(counted) == texts
    assert plain[-1] == counted[-1] == "[DONE]"
    assert json.loads(plain[-2])["choices"][0]["finish_reason"] == "stop"
    assert json.loads(counted[-2])["choices"] == []
    assert json.loads(counted[-2])["usage"]["completion_tokens"] == 2


async def test_max_tokens_cuts_the_answer_and_says_so(model: Path) -> None:
    async with fake_engine(model) as engine:
        answer = (await engine.chat(max_tokens=2)).json()

    assert answer["choices"][0]["message"]["content"] == "word1 word2"
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_text_and_native_completions_have_their_own_shapes(model: Path) -> None:
    async with fake_engine(model) as engine:
        text = (await engine.http.post("/v1/completions", json={"prompt": "Once", "max_tokens": 1})).json()
        native = (await engine.http.post("/completion", json={"prompt": "Once", "n_predict": 1})).json()
        events = await engine.stream("/completion", prompt="Once", n_predict=1)

    choice = {"text": "word1", "index": 0, "logprobs": None, "finish_reason": "length"}
    assert (text["object"], text["choices"]) == ("text_completion", [choice])
    assert (native["content"], native["stop"], native["stop_type"]) == ("word1", True, "limit")
    assert [json.loads(event)["stop"] for event in events] == [False, True]


async def test_embeddings_come_as_numbers_or_packed_where_the_server_has_them(model: Path) -> None:
    async with fake_engine(model, "--embeddings") as engine:
        numbers = (await engine.http.post("/v1/embeddings", json={"input": ["a", "b"]})).json()
        packed = (await engine.http.post("/v1/embeddings", json={"input": "a", "encoding_format": "base64"})).json()
    async with fake_engine(model) as engine:
        refused = await engine.http.post("/v1/embeddings", json={"input": "a"})

    vector = numbers["data"][0]["embedding"]
    assert [entry["index"] for entry in numbers["data"]] == [0, 1]
    assert vector != numbers["data"][1]["embedding"]
    assert struct.unpack("<8f", base64.b64decode(packed["data"][0]["embedding"])) == pytest.approx(vector)
    assert refused.status_code == 501


async def test_pages_about_model_and_tokens_answer(model: Path) -> None:
    async with fake_engine(model, "--alias", "qwen", "--ctx-size", "2048", "--parallel", "2", "--metrics") as engine:
        get = engine.http.get
        assert (await get("/health")).json() == {"status": "ok"}
        assert (await get("/v1/models")).json()["data"][0]["id"] == "qwen"
        props = (await get("/props")).json()
        assert (props["total_slots"], props["default_generation_settings"]["n_ctx"]) == (2, 1024)
        prompt = (await engine.http.post("/apply-template", json=HELLO)).json()["prompt"]
        tokens = (await engine.http.post("/tokenize", json={"content": prompt})).json()["tokens"]
        assert (await engine.http.post("/detokenize", json={"tokens": tokens})).json() == {"content": prompt}
        counted = (await engine.http.post("/v1/chat/completions/input_tokens", json=HELLO)).json()
        assert counted == {"input_tokens": len(tokens), "object": "response.input_tokens"}
        assert (await engine.chat()).json()["usage"]["prompt_tokens"] == len(tokens)
        assert "llamacpp:tokens_predicted_total 8" in (await get("/metrics")).text


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"{bad", 400, "invalid_request_error"),
        (b"{}", 400, "invalid_request_error"),
        (b'{"messages": 3}', 400, "invalid_request_error"),
        (
            json.dumps({"messages": [{"role": "user", "content": "word " * 99}]}).encode(),
            400,
            "exceed_context_size_error",
        ),
    ],
)
async def test_wrong_request_is_refused_as_the_real_one_does(model: Path, body: bytes, status: int, kind: str) -> None:
    async with fake_engine(model, "--ctx-size", "64", "--parallel", "1") as engine:
        answer = await engine.http.post(CHAT, content=body)

    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    assert answer.headers["connection"] == "close"


async def test_malformed_streams_are_malformed_as_asked(model: Path) -> None:
    write_fault(model, garbage_sse=True, no_done=True, huge_line=True)
    async with fake_engine(model) as engine:
        events = await engine.stream()
        assert "{this is no JSON" in events
        assert "[DONE]" not in events
        assert max(map(len, events)) > 2**20

    write_fault(model, bad_utf8=True)
    async with fake_engine(model) as engine:
        for stream in (False, True):
            with pytest.raises(UnicodeDecodeError):
                (await engine.chat(stream=stream)).content.decode()


async def test_echo_answers_with_the_last_user_message(model: Path) -> None:
    write_fault(model, echo=True)
    parts = [{"type": "text", "text": "Grüße,\n"}, {"type": "text", "text": "  you 🙂 "}]
    async with fake_engine(model) as engine:
        answer = (await engine.chat(messages=[{"role": "user", "content": parts}])).json()
        prompt = (await engine.http.post("/apply-template", json=HELLO)).json()["prompt"]
        native = (await engine.http.post("/completion", json={"prompt": prompt})).json()

    assert answer["choices"][0]["message"]["content"] == "Grüße,\n  you 🙂 "
    assert native["content"] == HELLO["messages"][0]["content"]


async def test_scripted_replies_come_in_turn_and_the_last_one_stays(model: Path) -> None:
    calls = [{"name": "get_time", "arguments": {"timezone": "UTC"}}, {"name": "broken", "arguments": "{bad"}]
    write_fault(model, replies=["Let me see.", {"tool_calls": calls}, {"answer": "noon"}])
    async with fake_engine(model) as engine:
        contents = [(await engine.chat()).json()["choices"][0]]
        streamed = await engine.stream()
        contents += [(await engine.chat()).json()["choices"][0] for _ in range(2)]

    assert [choice["message"]["content"] for choice in contents] == ["Let me see.", *['{"answer": "noon"}'] * 2]
    fragments = [call for delta in deltas(streamed) for call in delta.get("tool_calls", [])]
    heads = [(call["index"], call["id"], call["function"]["name"]) for call in fragments if "id" in call]
    assert heads == [(0, "call0", "get_time"), (1, "call1", "broken")]
    arguments = ["".join(c["function"]["arguments"] for c in fragments if c["index"] == index) for index in (0, 1)]
    assert arguments == ['{"timezone": "UTC"}', "{bad"]
    assert json.loads(streamed[-2])["choices"][0]["finish_reason"] == "tool_calls"


async def test_tool_calls_come_whole_where_no_stream_was_asked_for(model: Path) -> None:
    write_fault(model, supports_tools=True, replies=[{"tool_calls": [{"name": "now", "arguments": {"zone": "UTC"}}]}])
    async with fake_engine(model) as engine:
        choice = (await engine.chat()).json()["choices"][0]
        caps = (await engine.http.get("/props")).json()["chat_template_caps"]

    function = {"name": "now", "arguments": '{"zone": "UTC"}'}
    assert choice["message"]["tool_calls"] == [{"type": "function", "function": function, "id": "call0"}]
    assert choice["finish_reason"] == "tool_calls"
    assert caps["supports_tools"]


async def test_first_completions_can_be_unavailable(model: Path) -> None:
    write_fault(model, unavailable_n_times=2)
    async with fake_engine(model) as engine:
        assert [(await engine.chat()).status_code for _ in range(3)] == [503, 503, 200]


async def test_every_completion_can_get_one_status(model: Path) -> None:
    write_fault(model, status=500)
    async with fake_engine(model) as engine:
        answer = await engine.chat(stream=True)

    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")


async def test_instant_answers_are_whole_and_not_recorded(model: Path) -> None:
    write_fault(model, instant=True)
    async with fake_engine(model) as engine:
        assert (await engine.chat()).json()["usage"]["completion_tokens"] == 8
        assert (await engine.stream())[-1] == "[DONE]"
        assert (await engine.http.get("/fake/requests")).json() == []
