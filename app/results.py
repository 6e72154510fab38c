"""Results that are given again, where a tool says for how long (``ToolSpec.cache_s``). Bounded, in memory."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.policy.rules import Policy
from app.tools.base import ToolSpec

_MOST_BYTES = 4 * 1024**2
_UNCHANGING = frozenset({"read", "net"})
"""Risks whose tools change nothing: of any other, a call must be done each time."""


@dataclass(frozen=True, slots=True)
class _Kept:
    content: str
    until_s: float


class Results:
    """What tools returned a moment ago. Every call is judged all the same: only running it is spared."""

    def __init__(self, *, most_bytes: int = _MOST_BYTES, now_s: Callable[[], float] = time.monotonic) -> None:
        """Nothing is kept yet."""
        self._most_bytes, self._now_s = most_bytes, now_s
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._policy: Policy | None = None
        self._bytes = 0

    def get(self, policy: Policy, spec: ToolSpec, arguments: Mapping[str, Any]) -> str | None:
        """What the same call returned, None when that is too long ago, or was under other rules."""
        if not _may_keep(spec):
            return None
        self._under(policy)
        kept = self._kept.get(_key(spec, arguments))
        return None if kept is None or kept.until_s <= self._now_s() else kept.content

    def put(self, policy: Policy, spec: ToolSpec, arguments: Mapping[str, Any], content: str) -> None:
        """Keep what a call returned, where its tool says so."""
        if not _may_keep(spec):
            return
        self._under(policy)
        key = _key(spec, arguments)
        self._drop(key)
        self._kept[key] = _Kept(content, self._now_s() + (spec.cache_s or 0))
        self._bytes += len(key[1]) + len(content)
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))

    def _under(self, policy: Policy) -> None:
        # A reload makes a new policy, also where it changes nothing: what was kept may come from another tool.
        if policy is not self._policy:
            self._policy, self._bytes = policy, 0
            self._kept.clear()

    def _drop(self, key: tuple[str, str]) -> None:
        kept = self._kept.pop(key, None)
        self._bytes -= 0 if kept is None else len(key[1]) + len(kept.content)


def _may_keep(spec: ToolSpec) -> bool:
    return spec.cache_s is not None and (spec.risk in _UNCHANGING or (spec.risk == "command" and not spec.changes))


def _key(spec: ToolSpec, arguments: Mapping[str, Any]) -> tuple[str, str]:
    return spec.name, json.dumps(arguments, sort_keys=True)
