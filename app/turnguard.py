"""Stops a model that asks for the same thing again and again. One for each turn; knows calls and how they ended."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

from app.messages import ToolCall, ToolResult

_FAILURES = 3
"""So often may the same call fail in one turn."""


class TurnGuard:
    """What failed in one turn."""

    def __init__(self) -> None:
        """Nothing has failed yet."""
        self._failures: Counter[tuple[str, bytes]] = Counter()

    def why_stopped(self, call: ToolCall) -> str | None:
        """Why this call is not to be tried once more, in words for the model; None when it may."""
        if self._failures[_same(call)] < _FAILURES:
            return None
        return (
            f"Stopped: {call.name:.80} failed {_FAILURES} times with these arguments. Try something else, or answer "
            "with what you have."
        )

    def note(self, result: ToolResult) -> None:
        """A call has ended."""
        if result.status != "ok":
            self._failures[_same(result.call)] += 1

    def give_up(self, call: ToolCall) -> None:
        """A person said no to this call: they are not asked again for the same thing."""
        self._failures[_same(call)] = _FAILURES


def _same(call: ToolCall) -> tuple[str, bytes]:
    """Equal for calls that ask for the same, however they are written."""
    try:
        text = json.dumps(json.loads(call.arguments or "{}"), sort_keys=True)
    except (ValueError, RecursionError):
        text = call.arguments
    # A digest, since a file's whole text may be among the arguments.
    return call.name, hashlib.sha256(text.encode(errors="surrogatepass")).digest()
