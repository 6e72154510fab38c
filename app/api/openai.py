"""/v1/*: raw ASGI, the hot path. A body is read and checked once; llama-server's bytes go back out unparsed."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Any, NamedTuple

import msgspec

from app.api import pages, served
from app.api.auth import Actor, Auth
from app.api.auth import Scope as Needs
from app.api.errors import Answer, answer_for
from app.api.fields import ChatFields, CompletionFields, EmbeddingFields, Fields, RerankFields, read_fields
from app.api.keep_alive import keep_alive_s
from app.api.kinds import require_kind
from app.api.media import admit_media
from app.api.ranked import documents_to_return, with_documents
from app.api.wire import Receive, Scope, Send
from app.errors import AirLabError, BadRequestError, RouteNotFoundError, WrongMethodError
from app.fleet import upstream
from app.fleet.lease import Lease, Waiting, with_lease
from app.fleet.refusals import cannot_start
from app.manifest.schema import Kind
from app.service import Service

_WAIT_S = 540.0
"""How long a request may wait for its model: less than the 600 s after which openai-python gives up."""
_JSON, _EVENTS = b"application/json", b"text/event-stream"
_STREAM_HEADERS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


class Generation(NamedTuple):
    """A route that llama-server answers."""

    fields: type[ChatFields] | type[CompletionFields] | type[EmbeddingFields] | type[RerankFields]
    kind: Kind
    read: str = "messages"
    """The field that may be too long for the model."""


GENERATIONS = {
    "/v1/chat/completions": Generation(ChatFields, "chat"),
    "/v1/completions": Generation(CompletionFields, "chat", "prompt"),
    "/v1/embeddings": Generation(EmbeddingFields, "embedding", "input"),
    "/v1/rerank": Generation(RerankFields, "rerank", "documents"),
}
NEEDS = Needs.USE
"""The scope of every route here."""


class OpenAIApp:
    """Serves everything below /v1."""

    def __init__(self, service: Service, auth: Auth) -> None:
        """One for each application."""
        self._service, self._auth = service, auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; every error goes out in OpenAI's shape."""
        reply = _Reply(send)
        try:
            client = scope["client"]
            actor = self._auth.who(scope["headers"], address=client[0] if client else "")
            self._auth.require(actor, NEEDS)
            await self._serve(scope["method"], scope["path"], receive, reply, actor)
        except AirLabError as exc:
            await reply.fail(answer_for(exc))
        except Exception as exc:  # noqa: BLE001 # the last one to hear of it: logged, and told as a 500
            await reply.fail(answer_for(exc))

    async def _serve(self, method: str, path: str, receive: Receive, reply: _Reply, actor: Actor) -> None:
        generation = GENERATIONS.get(path)
        if generation is not None:
            if method != "POST":
                raise WrongMethodError(f"{path} takes POST", allowed="POST")
            self._service.refuse_if_stopping()
            body = (await receive())["body"]
            await self._generate(path, generation, read_fields(body, generation.fields), reply, actor)
        elif path == "/v1/models" or path.startswith("/v1/models/"):
            if method not in {"GET", "HEAD"}:
                raise WrongMethodError(f"{path:.100} takes GET", allowed="GET")
            await reply.json(200, self._listing(path.removeprefix("/v1/models").strip("/")))
        else:
            raise RouteNotFoundError(f"there is no {path:.100}; /schema shows what there is")

    def _listing(self, name: str) -> dict[str, Any]:
        snapshot, status = self._service.live.current, self._service.fleet.status()
        if not name:
            return pages.openai_models(snapshot, status)
        key = snapshot.key_of(name)
        return pages.openai_model(snapshot.models[key], status[key])

    async def _generate(self, path: str, generation: Generation, fields: Fields, reply: _Reply, actor: Actor) -> None:
        key = await self._serving_key(fields.model, generation.kind)
        if isinstance(fields, ChatFields) and fields.server_tools:
            await self._answer_with_tools(key, fields, actor, reply)
            return
        if isinstance(fields, ChatFields):
            await admit_media(self._service.live.current.models[key], fields)
        keep_s, fields.keep_alive = keep_alive_s(fields.keep_alive), None
        fields.model = self._service.live.current.models[key].upstream_name
        documents = documents_to_return(fields)
        body = msgspec.json.encode(fields)
        deadline_s = time.monotonic() + _WAIT_S

        async def work(lease: Lease) -> None:
            reply.waited()
            await self._pass_on(lease, path, body, reply, documents)

        await with_lease(
            self._service.fleet,
            key,
            work,
            deadline_s=deadline_s,
            begun=lambda: reply.started,
            waiting=reply.wait,
            keep_alive_s=keep_s,
        )

    async def _answer_with_tools(self, key: str, fields: ChatFields, actor: Actor, reply: _Reply) -> None:
        """The one case below /v1 in which the server's tools run: the request names them."""
        request = served.once_request(self._service, key, fields, wait_s=_WAIT_S)
        answering, model = self._service.chat.once(request, actor=actor.name, line=reply), fields.model or key
        if not fields.stream:
            await reply.whole(200, _JSON, await served.whole(answering, model))
            return
        with_usage = bool((fields.stream_options or {}).get("include_usage"))
        async with aclosing(served.streamed(answering, model, with_usage=with_usage)) as stream:
            async for event in stream:
                if not reply.started:
                    await reply.begin(200, [(b"content-type", _EVENTS), *_STREAM_HEADERS])
                await reply.more(event)
        await reply.end()

    async def _serving_key(self, name: str | None, kind: Kind) -> str:
        snapshot = self._service.live.current
        key = snapshot.key_of(name)
        if cannot_start(snapshot.models[key]) is not None:
            await self._service.reload.look_again()  # its file may have come meanwhile, or gone
            snapshot = self._service.live.current
            key = snapshot.key_of(name)
        require_kind(snapshot.models[key], kind)
        return key

    async def _pass_on(self, lease: Lease, path: str, body: bytes, reply: _Reply, documents: list[str] | None) -> None:
        async with await lease.upstream.send(path, body) as answer:
            if answer.status != 200:
                raise _about(GENERATIONS[path].read, await answer.refused())
            answer.require_json()
            if answer.is_stream:
                await _pass_stream_on(answer, reply)
            else:
                whole = await answer.read()
                await reply.whole(200, _JSON, whole if documents is None else with_documents(whole, documents))


def _about(field: str, error: AirLabError) -> AirLabError:
    """The error, naming this field where it names one: who made it knew no route."""
    if isinstance(error, BadRequestError) and error.param is not None:
        error.param = field
    return error


async def _pass_stream_on(answer: upstream.Answer, reply: _Reply) -> None:
    """The stream as it comes. The status line goes out with the first bytes, so that an early death is still a 502."""
    async for chunk in answer.chunks():
        if not reply.started:
            await reply.begin(200, [(b"content-type", _EVENTS), *_STREAM_HEADERS])
        await reply.more(chunk)
    await reply.end()


class _Reply:
    """One answer on its way out, and how far it has got."""

    __slots__ = ("_queued", "_send", "_waited_s", "_waits_since_s", "started")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._queued: Waiting | None = None
        self._waits_since_s: float | None = None
        self._waited_s = 0.0
        self.started = False

    def wait(self, waiting: Waiting) -> None:
        """Somebody has to wait; how it stood at first goes into a header."""
        if self._queued is None:
            self._queued = waiting
        if self._waits_since_s is None:
            self._waits_since_s = time.monotonic()

    def waited(self) -> None:
        """The wait is over; there may be another one, which adds to it."""
        if self._waits_since_s is not None:
            self._waited_s += time.monotonic() - self._waits_since_s
            self._waits_since_s = None

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.started = True
        self.waited()
        if self._queued is not None:
            headers = [*headers, (b"x-airlab-queue", self._wait_in_words(self._queued))]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    def _wait_in_words(self, queued: Waiting) -> bytes:
        guess = "" if queued.eta_s is None else f", eta={queued.eta_s:.1f}"
        return f"ahead={queued.ahead}{guess}, waited={self._waited_s:.1f}".encode()

    async def more(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self, chunk: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": chunk})

    async def whole(self, status: int, content_type: bytes, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        length = str(len(body)).encode()
        await self.begin(status, [(b"content-type", content_type), (b"content-length", length), *headers])
        await self.end(body)

    async def json(self, status: int, content: Any) -> None:
        await self.whole(status, _JSON, msgspec.json.encode(content))

    async def fail(self, answer: Answer) -> None:
        """An error as the answer; after the first byte as the last event of the stream, without [DONE]."""
        body = msgspec.json.encode({"error": answer.error})
        if self.started:
            await self.end(b"data: " + body + b"\n\n")
        else:
            headers = ((name.encode(), value.encode()) for name, value in answer.headers.items())
            await self.whole(answer.status, _JSON, body, *headers)
