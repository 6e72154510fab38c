"""What the models are asked."""

from __future__ import annotations

from typing import Any

_MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Write a long story about a lighthouse keeper."},
]


def one_token(model: str) -> dict[str, Any]:
    """A chat whose prompt is cached from the second time on, answered with one token."""
    return {"model": model, "messages": _MESSAGES, "max_tokens": 1, "cache_prompt": True, "temperature": 0}


def streamed(model: str, *, tokens: int) -> dict[str, Any]:
    """A streamed chat of exactly so many tokens."""
    chat = one_token(model) | {"max_tokens": tokens, "ignore_eos": True}
    return chat | {"stream": True, "stream_options": {"include_usage": True}}
