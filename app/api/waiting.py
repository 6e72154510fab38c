"""What AirLab answers while there is no manifest at all that it could serve: 503, and on /health the reason."""

from __future__ import annotations

import json

from app.api.auth import Auth
from app.api.auth import Scope as Reach
from app.api.errors import Answer, answer_for
from app.api.reply import words_for
from app.api.wire import Receive, Scope, Send
from app.errors import AirLabError

_SOON_S = 5


class WaitingRoom:
    """An ASGI application that serves nobody, and says why."""

    def __init__(self, auth: Auth, trouble: AirLabError) -> None:
        """Answer with ``trouble`` until somebody sets another."""
        self.trouble = trouble
        self._auth = auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        status, body = self._answer(scope)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"retry-after", b"%d" % _SOON_S),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _answer(self, scope: Scope) -> tuple[int, bytes]:
        client = scope.get("client")
        try:
            actor = self._auth.who(scope["headers"], address=client[0] if client else "")
        except AirLabError as exc:
            answer = answer_for(exc)
            return answer.status, words_for(scope["path"]).body(answer)
        short = "AirLab has no manifest that it could serve"
        if scope["path"] != "/health":
            message = f"{short}; /health says what is wrong with airlab.yaml"
            error = {"message": message, "type": "server_error", "param": None, "code": "no_manifest"}
            return 503, words_for(scope["path"]).body(Answer(503, error, {}))
        body: dict[str, object] = {"status": "degraded", "message": short, "model_key": None}
        if actor.scope >= Reach.USE:
            rest = {"state": None, "device": None, "loaded": False, "generation": 0}
            body |= {"message": f"{short}: {self.trouble.message}", **rest, "reload_error": self.trouble.message}
        return 503, json.dumps(body).encode()
