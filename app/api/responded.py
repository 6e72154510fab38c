"""POST /v1/responses, the answer: blocks of a chat as OpenAI's output items, whole or as events."""

from __future__ import annotations

import time
import uuid
from typing import Any, Literal

from app.api.blocks import Block, Step
from app.api.dialect import Telling, event
from app.api.errors import Answer
from app.chat.stream import Generated

Body = dict[str, Any]
_Status = Literal["in_progress", "completed", "incomplete"]
_WHY_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_PREFIXES = {"thought": "rs", "text": "msg", "call": "fc"}


class ResponsesTelling(Telling):
    """Tells one answer; every event has its number and the place of what it is about."""

    def __init__(self, model: str, echo: Body) -> None:
        """``echo`` is what the answer repeats of its request."""
        super().__init__(model)
        self._echo = echo
        self._hex = uuid.uuid4().hex
        self._created_at = int(time.time())
        self._events = 0
        self._incomplete: str | None = None

    def begin(self) -> bytes:
        """The answer as it stands: empty."""
        return self._event("response.created", response=self._response("in_progress")) + self.alive()

    def alive(self) -> bytes:
        """It is still being worked on."""
        return self._event("response.in_progress", response=self._response("in_progress"))

    def step(self, step: Step) -> bytes:
        """Each item is added, filled and done."""
        match step.happening:
            case "opened":
                return self._opened(step.block)
            case "grew":
                return self._grew(step.block, step.text)
            case "closed":
                return self._closed(step.block)

    def end(self, generated: Generated) -> bytes:
        """What is open is done, and the whole answer comes once more."""
        self._incomplete = _WHY_INCOMPLETE.get(generated.finish_reason)
        last = b"".join(map(self.step, self.blocks.end()))
        answer = self.whole(generated)
        return last + self._event(f"response.{answer['status']}", response=answer)

    def failed(self, answer: Answer) -> bytes:
        """It broke off; what was said up to there is in it."""
        error = {"code": "server_error", "message": answer.error["message"]}
        output = [self._item(block, "incomplete") for block in self.blocks.all]
        return self._event("response.failed", response=self._response("failed", error=error, output=output))

    def whole(self, generated: Generated) -> Body:
        """The answer as one object."""
        self._incomplete = _WHY_INCOMPLETE.get(generated.finish_reason)
        details = {"reason": self._incomplete} if self._incomplete else None
        prompt, said = generated.prompt_tokens, generated.completion_tokens
        return self._response(
            "incomplete" if self._incomplete else "completed",
            incomplete_details=details,
            completed_at=None if self._incomplete else int(time.time()),
            output=[self._item(block, self._status(block)) for block in self.blocks.all],
            usage={
                "input_tokens": prompt,
                "input_tokens_details": {"cached_tokens": generated.cached_tokens, "cache_write_tokens": 0},
                "output_tokens": said,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": prompt + said,
            },
        )

    def _opened(self, block: Block) -> bytes:
        item = self._item(block, "in_progress")
        if block.kind == "call":
            return self._event("response.output_item.added", output_index=block.index, item=item | {"arguments": ""})
        added = self._event("response.output_item.added", output_index=block.index, item=item | {"content": []})
        return added + self._about(block, "response.content_part.added", part=_part(block, ""))

    def _grew(self, block: Block, text: str) -> bytes:
        match block.kind:
            case "thought":
                return self._about(block, "response.reasoning_text.delta", delta=text)
            case "text":
                return self._about(block, "response.output_text.delta", delta=text, logprobs=[])
            case "call":
                return self._about(block, "response.function_call_arguments.delta", delta=text)

    def _closed(self, block: Block) -> bytes:
        match block.kind:
            case "thought":
                told = self._about(block, "response.reasoning_text.done", text=block.text)
            case "text":
                told = self._about(block, "response.output_text.done", text=block.text, logprobs=[])
            case _:
                called = {"name": block.name, "arguments": block.text}
                told = self._about(block, "response.function_call_arguments.done", **called)
        if block.kind != "call":
            told += self._about(block, "response.content_part.done", part=_part(block, block.text))
        item = self._item(block, self._status(block))
        return told + self._event("response.output_item.done", output_index=block.index, item=item)

    def _status(self, block: Block) -> _Status:
        return "incomplete" if self._incomplete and block is self.blocks.all[-1] else "completed"

    def _item(self, block: Block, status: _Status) -> Body:
        item: Body = {"id": self._id(block), "status": status}
        match block.kind:
            case "thought":
                return item | {
                    "type": "reasoning",
                    "summary": [],
                    "content": [_part(block, block.text)],
                    "encrypted_content": None,
                }
            case "text":
                return item | {"type": "message", "role": "assistant", "content": [_part(block, block.text)]}
            case "call":
                call = {"call_id": block.call_id, "name": block.name, "arguments": block.text}
                return item | {"type": "function_call", **call}

    def _id(self, block: Block) -> str:
        return f"{_PREFIXES[block.kind]}_{self._hex}{block.index:02d}"

    def _about(self, block: Block, name: str, /, **more: Any) -> bytes:
        place = {"item_id": self._id(block), "output_index": block.index}
        return self._event(name, **place, **({} if block.kind == "call" else {"content_index": 0}), **more)

    def _event(self, name: str, /, **content: Any) -> bytes:
        number, self._events = self._events, self._events + 1
        return event(name, {"sequence_number": number, **content})

    def _response(self, status: str, **more: Any) -> Body:
        return {
            "id": f"resp_{self._hex}",
            "object": "response",
            "created_at": self._created_at,
            "completed_at": None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "metadata": {},
            "model": self.model,
            "output": [],
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            "usage": None,
            **self._echo,
            **more,
        }


def _part(block: Block, text: str) -> Body:
    """What an item of text or thoughts holds."""
    if block.kind == "thought":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
