"""POST /v1/messages, the answer: blocks of a chat as Anthropic's content blocks, whole or as events."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from app.api.blocks import Block, Step
from app.api.dialect import Telling, event
from app.api.errors import Answer
from app.api.wire import anthropic_error_body
from app.chat.stream import Generated

Body = dict[str, Any]


class MessageTelling(Telling):
    """Tells one answer. What the prompt took is known at the end, and told there."""

    def __init__(self, model: str) -> None:
        """As every telling."""
        super().__init__(model)
        self._id = f"msg_{uuid.uuid4().hex}"

    def begin(self) -> bytes:
        """The message as it stands: empty."""
        return event("message_start", {"message": self._message([], None, _usage(0, 0, 0))})

    def alive(self) -> bytes:
        """It is still being worked on."""
        return event("ping", {})

    def step(self, step: Step) -> bytes:
        """Each block is started, filled and stopped."""
        block = step.block
        match step.happening:
            case "opened":
                return event("content_block_start", {"index": block.index, "content_block": _content(block, "", {})})
            case "grew":
                return event("content_block_delta", {"index": block.index, "delta": _delta(block, step.text)})
            case "closed":
                return event("content_block_stop", {"index": block.index})

    def end(self, generated: Generated) -> bytes:
        """What is open is stopped; then why it ended, and what it took."""
        last = b"".join(map(self.step, self.blocks.end()))
        delta = {"stop_reason": self._stop_reason(generated), "stop_sequence": None}
        return last + event("message_delta", {"delta": delta, "usage": _used(generated)}) + event("message_stop", {})

    def failed(self, answer: Answer) -> bytes:
        """It broke off."""
        return b"event: error\ndata: %b\n\n" % anthropic_error_body(answer.status, answer.error["message"])

    def whole(self, generated: Generated) -> Body:
        """The answer as one object."""
        content = [_content(block, block.text, _input(block)) for block in self.blocks.all]
        return self._message(content, self._stop_reason(generated), _used(generated))

    def _stop_reason(self, generated: Generated) -> str:
        if generated.finish_reason == "length":
            return "max_tokens"
        if generated.finish_reason == "content_filter":
            return "refusal"
        return "tool_use" if self.blocks.calls else "end_turn"

    def _message(self, content: list[Body], stop_reason: str | None, usage: Body) -> Body:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "usage": usage,
        }


def _content(block: Block, text: str, called_with: Body) -> Body:
    match block.kind:
        case "thought":
            return {"type": "thinking", "thinking": text, "signature": ""}
        case "text":
            return {"type": "text", "text": text}
        case "call":
            return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": called_with}


def _delta(block: Block, text: str) -> Body:
    match block.kind:
        case "thought":
            return {"type": "thinking_delta", "thinking": text}
        case "text":
            return {"type": "text_delta", "text": text}
        case "call":
            return {"type": "input_json_delta", "partial_json": text}


def _input(block: Block) -> Body:
    """The arguments of a call; none where they were cut, since only an object can be told."""
    if block.kind != "call":
        return {}
    try:
        return msgspec.json.decode(block.text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def _used(generated: Generated) -> Body:
    return _usage(generated.prompt_tokens, generated.cached_tokens, generated.completion_tokens)


def _usage(prompt_tokens: int, cached_tokens: int, said_tokens: int) -> Body:
    return {
        "input_tokens": prompt_tokens - cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached_tokens,
        "output_tokens": said_tokens,
    }
