"""/v1/*: raw ASGI, the hot path. A body is read and checked once; llama-server's bytes go back out unparsed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, NamedTuple

import msgspec

from app.api import pages, retold, served
from app.api.auth import Actor, Auth
from app.api.auth import Scope as Needs
from app.api.errors import answer_for
from app.api.fields import ChatFields, CompletionFields, EmbeddingFields, Fields, RerankFields, read_fields
from app.api.keep_alive import keep_alive_s
from app.api.kinds import require_kind
from app.api.media import admit_media, media_in
from app.api.ranked import documents_to_return, with_documents
from app.api.reply import JSON, Reply
from app.api.retold import DIALECTS, Dialect
from app.api.wire import Receive, Scope, Send
from app.errors import AirLabError, BadRequestError, RouteNotFoundError, WrongMethodError
from app.fleet import upstream
from app.fleet.lease import Lease, with_lease
from app.fleet.refusals import cannot_start
from app.manifest.schema import Kind
from app.service import Service

_WAIT_S = 540.0
"""How long a request may wait for its model: less than the 600 s after which openai-python gives up."""


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
        """Serve one request; every error goes out in the shape of those who ask for its path."""
        reply = Reply(send, scope["path"])
        try:
            client = scope["client"]
            actor = self._auth.who(scope["headers"], address=client[0] if client else "")
            self._auth.require(actor, NEEDS)
            await self._serve(scope["method"], scope["path"], receive, reply, actor)
        except AirLabError as exc:
            await reply.fail(answer_for(exc))
        except Exception as exc:  # noqa: BLE001 # the last one to hear of it: logged, and told as a 500
            await reply.fail(answer_for(exc))

    async def _serve(self, method: str, path: str, receive: Receive, reply: Reply, actor: Actor) -> None:
        generation = GENERATIONS.get(path)
        if generation is not None:
            body = await self._body(method, path, receive)
            await self._generate(path, generation, read_fields(body, generation.fields), reply, actor)
        elif (dialect := DIALECTS.get(path)) is not None:
            await self._retell(dialect, await self._body(method, path, receive), reply)
        elif path == "/v1/models" or path.startswith("/v1/models/"):
            if method not in {"GET", "HEAD"}:
                raise WrongMethodError(f"{path:.100} takes GET", allowed="GET")
            await reply.json(200, self._listing(path.removeprefix("/v1/models").strip("/")))
        else:
            raise RouteNotFoundError(f"there is no {path:.100}; /schema shows what there is")

    async def _body(self, method: str, path: str, receive: Receive) -> bytes:
        if method != "POST":
            raise WrongMethodError(f"{path} takes POST", allowed="POST")
        self._service.refuse_if_stopping()
        body: bytes = (await receive())["body"]
        return body

    def _listing(self, name: str) -> dict[str, Any]:
        snapshot, status = self._service.live.current, self._service.fleet.status()
        if not name:
            return pages.openai_models(snapshot, status)
        key = snapshot.key_of(name)
        return pages.openai_model(snapshot.models[key], status[key])

    async def _generate(self, path: str, generation: Generation, fields: Fields, reply: Reply, actor: Actor) -> None:
        key = await self._serving_key(fields.model, generation.kind)
        if isinstance(fields, ChatFields) and fields.server_tools:
            await self._answer_with_tools(key, fields, actor, reply)
            return
        if isinstance(fields, ChatFields):
            await admit_media(self._service.live.current.models[key], media_in(fields))
        keep_s = self._prepare(key, fields)
        documents = documents_to_return(fields)
        body = msgspec.json.encode(fields)

        async def work(lease: Lease) -> None:
            await self._pass_on(lease, path, body, reply, documents)

        await self._leased(key, work, reply, keep_s)

    async def _retell(self, dialect: Dialect, body: bytes, reply: Reply) -> None:
        asked = dialect.read(body)
        key = await self._serving_key(asked.chat.model, "chat")
        await admit_media(self._service.live.current.models[key], asked.media)
        keep_s = self._prepare(key, asked.chat)

        async def work(lease: Lease) -> None:
            await (retold.count if dialect.counts else retold.tell)(lease, asked, reply)

        await self._leased(key, work, reply, keep_s)

    def _prepare(self, key: str, fields: Fields) -> float | None:
        """Make fields what goes upstream; returns how long the model is to be kept."""
        keep_s, fields.keep_alive = keep_alive_s(fields.keep_alive), None
        fields.model = self._service.live.current.models[key].upstream_name
        return keep_s

    async def _leased(
        self, key: str, work: Callable[[Lease], Awaitable[None]], reply: Reply, keep_s: float | None
    ) -> None:
        async def work_on(lease: Lease) -> None:
            reply.waited()
            await work(lease)

        await with_lease(
            self._service.fleet,
            key,
            work_on,
            deadline_s=time.monotonic() + _WAIT_S,
            begun=lambda: reply.started,
            waiting=reply.wait,
            keep_alive_s=keep_s,
        )

    async def _answer_with_tools(self, key: str, fields: ChatFields, actor: Actor, reply: Reply) -> None:
        """The one case below /v1 in which the server's tools run: the request names them."""
        request = served.once_request(self._service, key, fields, wait_s=_WAIT_S)
        answering, model = self._service.chat.once(request, actor=actor.name, line=reply), fields.model or key
        if not fields.stream:
            await reply.whole(200, JSON, await served.whole(answering, model))
            return
        with_usage = bool((fields.stream_options or {}).get("include_usage"))
        async with aclosing(served.streamed(answering, model, with_usage=with_usage)) as stream:
            async for event in stream:
                if not reply.started:
                    await reply.begin_stream()
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

    async def _pass_on(self, lease: Lease, path: str, body: bytes, reply: Reply, documents: list[str] | None) -> None:
        async with await lease.upstream.send(path, body) as answer:
            if answer.status != 200:
                raise _about(GENERATIONS[path].read, await answer.refused())
            answer.require_json()
            if answer.is_stream:
                await _pass_stream_on(answer, reply)
            else:
                whole = await answer.read()
                await reply.whole(200, JSON, whole if documents is None else with_documents(whole, documents))


def _about(field: str, error: AirLabError) -> AirLabError:
    """The error, naming this field where it names one: who made it knew no route."""
    if isinstance(error, BadRequestError) and error.param is not None:
        error.param = field
    return error


async def _pass_stream_on(answer: upstream.Answer, reply: Reply) -> None:
    """The stream as it comes. The status line goes out with the first bytes, so that an early death is still a 502."""
    async for chunk in answer.chunks():
        if not reply.started:
            await reply.begin_stream()
        await reply.more(chunk)
    await reply.end()
