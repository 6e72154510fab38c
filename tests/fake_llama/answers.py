"""The shapes of llama-server's answers, field for field as b11434 gives them. Pure: no clock, no socket, no fault.

The answer to a completion is a list of steps, one a token: a string is text, a dict is the delta of a tool call.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

Step = str | dict[str, Any]
Body = dict[str, Any]

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    501: "not_supported_error",
    503: "unavailable_error",
}


class Refusal(Exception):  # noqa: N818 # an answer, not a mistake
    """A request that llama-server answers with an error."""

    def __init__(self, status: int, message: str, **more: object) -> None:
        """``more`` stands beside the message, or in place of its type."""
        super().__init__(message)
        self.status = status
        kind = _ERROR_TYPES.get(status, "server_error")
        self.body = {"error": {"code": status, "message": message, "type": kind, **more}}


def context_refusal(prompt_tokens: int, n_ctx: int) -> Refusal:
    """The prompt alone fills the context; both in tokens."""
    message = f"request ({prompt_tokens} tokens) exceeds the available context size ({n_ctx} tokens), try increasing it"
    return Refusal(400, message, type="exceed_context_size_error", n_prompt_tokens=prompt_tokens, n_ctx=n_ctx)


def pieces(text: str) -> list[str]:
    """Text cut into what counts as a token here: a word or a mark, with the space before it."""
    return re.findall(r"\s*(?:\w+|[^\w\s])|\s+", text)


def text_of(content: Any) -> str:
    """A message's content as text, whether it came as a string, as parts or not at all."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def apply_template(messages: list[Body]) -> str:
    """The prompt that these messages become (ChatML), tool calls as JSON."""
    turns = [f"<|im_start|>{message.get('role')}\n{_said(message)}<|im_end|>\n" for message in messages]
    return "".join(turns) + "<|im_start|>assistant\n"


def _said(message: Body) -> str:
    calls = message.get("tool_calls")
    return text_of(message.get("content")) + (json.dumps(calls) if calls else "")


def prompt_of(route: str, body: Body) -> str:
    """The text the model would see. Raises Refusal in llama-server's words."""
    if route != "chat":
        if "prompt" not in body:
            raise Refusal(400, "[json.exception.out_of_range.403] key 'prompt' not found")
        return body["prompt"] if isinstance(body["prompt"], str) else str(body["prompt"])
    messages: Any = body.get("messages")
    if messages is None:
        raise Refusal(400, "'messages' is required")
    if not isinstance(messages, list):
        raise Refusal(400, "Expected 'messages' to be an array")
    return apply_template(messages)


def default_steps(tokens: int) -> list[Step]:
    """``word1 word2 ...``: so many tokens."""
    return [f"word{n}" if n == 1 else f" word{n}" for n in range(1, tokens + 1)]


def echo_steps(body: Body) -> list[Step]:
    """The last thing the user said; of a bare prompt in ChatML the same, of any other prompt all of it."""
    if "messages" in body:
        said = [text_of(m.get("content")) for m in body["messages"] if m.get("role") == "user"]
    else:
        prompt = str(body.get("prompt", ""))
        said = re.findall(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", prompt, re.DOTALL) or [prompt]
    # A lone surrogate in a request must not become a broken byte in the answer.
    return list(pieces((said or [""])[-1].encode("utf-8", "replace").decode()))


def scripted_steps(reply: Any, *, chat: bool) -> list[Step]:
    """One entry of ``replies``: a string is text, ``{"tool_calls": [...]}`` calls, any other value JSON text.

    A call is ``{"name": ..., "arguments": ...}``; arguments may be an object, or a string to be sent as it is, however
    broken. Only the chat route has tool calls: elsewhere they are JSON text too.
    """
    if isinstance(reply, str):
        return list(pieces(reply))
    if not (chat and isinstance(reply, dict) and "tool_calls" in reply):
        return list(pieces(json.dumps(reply)))
    steps: list[Step] = list(pieces(reply.get("content", "")))
    for index, call in enumerate(reply["tool_calls"]):
        arguments = call["arguments"] if isinstance(call["arguments"], str) else json.dumps(call["arguments"])
        first, *rest = re.findall(r".{1,8}", arguments, re.DOTALL) or [""]
        function = {"name": call["name"], "arguments": first}
        steps.append({"index": index, "id": f"call{index}", "type": "function", "function": function})
        steps += [{"index": index, "function": {"arguments": fragment}} for fragment in rest]
    return steps


def fold(steps: list[Step]) -> tuple[str, list[Body]]:
    """Text and tool calls that a client has once it has seen these steps."""
    calls: list[Body] = []
    for step in steps:
        if isinstance(step, str):
            continue
        if "id" in step:
            calls.append({"type": "function", "function": dict(step["function"]), "id": step["id"]})
        else:
            calls[-1]["function"]["arguments"] += step["function"]["arguments"]
    return "".join(step for step in steps if isinstance(step, str)), calls


@dataclass(frozen=True)
class Completion:
    """One completion, planned to its end; ``route`` is ``chat``, ``text`` (/v1/completions) or ``native``."""

    route: str
    model: str
    number: int
    created: int
    prompt: str
    prompt_tokens: int
    steps: list[Step]
    cut: bool
    body: Body

    @property
    def streams(self) -> bool:
        """Whether events were asked for."""
        return bool(self.body.get("stream"))

    @property
    def finish_reason(self) -> str:
        """Why it ends where it ends."""
        if self.cut:
            return "length"
        return "tool_calls" if any(isinstance(step, dict) for step in self.steps) else "stop"

    def token_events(self, index: int) -> list[Body]:
        """What a stream says with its token ``index``, counted from 0."""
        step = self.steps[index]
        if self.route == "native":
            counts = {"tokens_predicted": index + 1, "tokens_evaluated": self.prompt_tokens}
            return [{"index": 0, "content": step, "tokens": [index], "stop": False, "id_slot": -1, **counts}]
        if self.route == "text":
            return [self._meta([{"text": step, "index": 0, "logprobs": None, "finish_reason": None}])]
        delta = {"content": step} if isinstance(step, str) else {"tool_calls": [step]}
        # The role comes with the first token, in the same write.
        role = [] if index else [self._chat_chunk({"role": "assistant", "content": None})]
        return [*role, self._chat_chunk(delta)]

    def end_events(self) -> list[Body]:
        """What a stream says after its last token."""
        if self.route == "native":
            return [self._native("")]
        closing = {"usage": self._usage(), "timings": self._timings()}
        if self.route == "text":
            return [
                self._meta([{"text": "", "index": 0, "logprobs": None, "finish_reason": self.finish_reason}]) | closing
            ]
        last = self._chat_chunk({}, self.finish_reason)
        if (self.body.get("stream_options") or {}).get("include_usage"):
            return [last, self._meta([]) | closing]
        return [last | {"timings": self._timings()}]

    def whole(self) -> Body:
        """The answer where no stream was asked for."""
        text, calls = fold(self.steps)
        if self.route == "native":
            return self._native(text)
        choice: Body = {"finish_reason": self.finish_reason, "index": 0}
        if self.route == "text":
            choice |= {"text": text, "logprobs": None}
        else:
            choice["message"] = {"role": "assistant", "content": text} | ({"tool_calls": calls} if calls else {})
        kind = {} if self.route == "text" else {"object": "chat.completion"}
        return self._meta([choice]) | kind | {"usage": self._usage(), "timings": self._timings()}

    def _chat_chunk(self, delta: Body, finish_reason: str | None = None) -> Body:
        return self._meta([{"finish_reason": finish_reason, "index": 0, "delta": delta}])

    def _meta(self, choices: list[Body]) -> Body:
        return {
            "choices": choices,
            "created": self.created,
            "id": f"chatcmpl-fake{self.number}",
            "model": self.model,
            "system_fingerprint": "b0-unknown",
            "object": "text_completion" if self.route == "text" else "chat.completion.chunk",
        }

    def _usage(self) -> Body:
        return {
            "completion_tokens": len(self.steps),
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + len(self.steps),
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    def _timings(self) -> Body:
        counts = {"cache_n": 0, "prompt_n": self.prompt_tokens, "predicted_n": len(self.steps)}
        speeds = {f"{what}_{unit}": 1.0 for what in ("prompt", "predicted") for unit in ("ms", "per_token_ms")}
        return counts | speeds | {"prompt_per_second": 1000.0, "predicted_per_second": 1000.0}

    def _native(self, content: str) -> Body:
        return {
            "index": 0,
            "content": content,
            "tokens": [],
            "id_slot": 0,
            "stop": True,
            "model": self.model,
            "tokens_predicted": len(self.steps),
            "tokens_evaluated": self.prompt_tokens,
            "generation_settings": {"n_predict": self.body.get("n_predict", -1), "stream": self.streams},
            "prompt": self.prompt,
            "has_new_line": "\n" in content,
            "truncated": False,
            "stop_type": "limit" if self.cut else "eos",
            "stopping_word": "",
            "tokens_cached": self.prompt_tokens + len(self.steps) - 1,
            "timings": self._timings(),
        }
