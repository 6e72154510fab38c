"""A Chat on a scripted model in memory: no process, no socket; the store is real."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from app.chat.chat import Chat
from app.chat.events import TurnEvent
from app.chat.history import read_account
from app.chat.model import Sampling
from app.chat.turn import TurnRequest
from app.devices.probe import Host
from app.errors import UpstreamError
from app.fleet.fleet import Fleet
from app.fleet.spec import ModelSpec
from app.gate import Gate
from app.live.inputs import first_snapshot
from app.live.snapshot import Live
from app.messages import Message, ToolCall, ToolResult
from app.settings import Settings
from app.store.db import Database
from app.store.records import Once, SessionKey, SessionView
from app.store.sessions import Sessions
from app.tools.base import ToolSpec, discover
from tests.support.manifest import loaded

T = TypeVar("T")
BREAK = "break"
"""A scripted piece at which the engine breaks off."""
KEY = SessionKey("key", "s")


class ScriptedModel:
    """Stands in for an Upstream: each reply is a list of deltas, taken in turn."""

    is_llama_server = True
    server = "llama-server"

    def __init__(self, replies: list[list[Any]]) -> None:
        self.replies = replies
        self.asked: list[dict[str, Any]] = []

    async def ask(self, path: str, payload: dict[str, Any] | None = None, *, of: type[T], **_: object) -> T:
        return msgspec.convert(await self._answer(path, payload), of)

    async def _answer(self, path: str, payload: dict[str, Any] | None) -> Any:
        await asyncio.sleep(0)
        caps = {"supports_tools": True, "supports_tool_calls": True}
        match path:
            case "/props":
                return {"default_generation_settings": {"n_ctx": 8192}, "chat_template_caps": caps}
            case "/tokenize":
                return {"tokens": [0 for _ in (payload or {})["content"].split()]}
            case "/v1/chat/completions/input_tokens":
                return {"input_tokens": 2 * len((payload or {})["messages"])}
            case _:
                raise AssertionError(path)

    async def send(self, path: str, body: bytes) -> ScriptedAnswer:
        assert path == "/v1/chat/completions"
        self.asked.append(json.loads(body))
        return ScriptedAnswer(self.replies.pop(0))


@dataclass
class ScriptedAnswer:
    """A stream of deltas."""

    deltas: list[Any]
    status: int = 200

    async def __aenter__(self) -> ScriptedAnswer:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def chunks(self) -> AsyncIterator[bytes]:
        for delta in self.deltas:
            await asyncio.sleep(0)
            if delta == BREAK:
                raise UpstreamError("llama-server broke off")
            yield f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n".encode()
        yield b"data: [DONE]\n\n"


@dataclass
class ScriptedFleet:
    """Stands in for a Fleet and for its one instance: always free, and ended when it breaks off."""

    spec: ModelSpec
    upstream: ScriptedModel
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    held: int = 0

    def take_free(self, key: str) -> ScriptedFleet:
        assert key == self.spec.key
        self.held += 1
        self.ended.set()
        return self

    def give_back(self, _: object, **more: object) -> None:
        self.held -= 1


@dataclass
class ScriptedGate:
    """Stands in for a Gate: what a call leads to is a function of it."""

    run: Callable[[ToolCall], str] = lambda _: "{}"
    before: Callable[[ToolCall], Any] | None = None
    calls: list[ToolCall] = field(default_factory=list)

    def offered(self) -> tuple[tuple[ToolSpec, ...], str]:
        return tuple(discover().values()), ""

    async def call(self, call: ToolCall, **_: object) -> ToolResult:
        self.calls.append(call)
        if self.before is not None:
            await self.before(call)
        return ToolResult(call, "ok", self.run(call), "allowed", 0.0, ran=True)


class House:
    """A Chat and what it stands on."""

    def __init__(self, folder: Path, database: Database, *replies: list[Any]) -> None:
        manifest = loaded("m", {"m": {"filename": "m.gguf"}})
        settings = Settings.model_validate({"AIRLAB_MANIFEST": folder / "airlab.yaml"})
        snapshot = first_snapshot(manifest, settings, Host(cores=4, can_offload=False))
        self.model = ScriptedModel(list(replies))
        self.fleet = ScriptedFleet(snapshot.models["m"], self.model)
        self.gate = ScriptedGate()
        self.sessions = Sessions(database)
        self.live = Live(snapshot)
        self.chat = Chat(self.live, cast(Fleet, self.fleet), self.sessions, cast(Gate, self.gate))

    def turn(self, *said: Message, tools: bool = False, once: Once | None = None) -> AsyncGenerator[TurnEvent]:
        sampling = Sampling(temperature=0, max_tokens=64, top_p=1, top_k=0, repeat_penalty=1)
        request = TurnRequest(
            session_id=KEY.name,
            account=read_account(said),
            model="m",
            sampling=sampling,
            system_prompt=None,
            enable_tools=tools,
            tool_choice="auto",
            once=once,
        )
        return self.chat.turn(request, actor=KEY.owner)

    async def view(self) -> SessionView:
        view = await self.sessions.view(KEY)
        assert view is not None
        return view
