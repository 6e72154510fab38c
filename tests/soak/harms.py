"""What is done to engines, files and the manifest in a soak of the fleet."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.soak.elsewhere import MODEL as FAR
from tests.support.service import Lab

MODELS = ("small", "b", "c", "d")
NO_MEMORY = "alloc_buffer: failed to allocate buffer of size 97517568"
FAULTS: tuple[dict[str, object], ...] = (
    {},
    {"token_s": 0.05},
    {"load_s": 0.5, "progress": True},
    {"load_forever": True},
    {"exit_code": 1},
    {"exit_code": 1, "exit_at": "load"},
    {"exit_code": 1, "exit_at": "load", "exit_message": NO_MEMORY},
    {"exit_code": 3, "exit_at": "request:2"},
    {"die_after_s": 0.3},
    {"ignore_sigterm": True},
    {"fork_setsid_grandchild": True},
    {"health_ok_but_hung": True, "ignore_sigterm": True},
    {"health_ok_but_hung": True},
    {"stall_after_tokens": 2},
    {"stall_after_tokens": 2, "ping_s": 0.2},
    {"close_after_tokens": 2},
    {"die_after_tokens": 2},
    {"garbage_sse": True},
    {"no_done": True},
    {"huge_line": True},
    {"bad_utf8": True},
    {"status": 500},
    {"unavailable_n_times": 2},
    {"keep_alive_s": 0.05},
    {"keep_alive_requests": 1},
)


ONLY_HERE = frozenset({"exit_code", "fork_setsid_grandchild", "load_forever"})
"""Of a server elsewhere: one that does not start is one that is away, and nobody there ends what it leaves behind."""


def edited(lab: Lab, chance: random.Random) -> dict[str, Any]:
    """The lab's manifest as it was laid, with some settings of some models otherwise."""
    manifest: dict[str, Any] = json.loads(laid(lab).read_text())
    for key in MODELS:
        model = manifest["models"][key]
        model["context_length"] = chance.choice((1024, 1024, 2048))
        if chance.random() < 0.3:
            model["idle_timeout"] = 1
        model["preload"] = chance.random() < 0.2
        model["not_with"] = [other for other in MODELS if other != key and chance.random() < 0.1]
    manifest["models"][FAR]["parallel"] = chance.choice((1, 2, 2, 2))
    return manifest


def laid(lab: Lab) -> Path:
    """The manifest as it was at first."""
    return lab.folder / "laid.json"


def lay(file: Path, data: bytes) -> None:
    """Replace a file in one step."""
    draft = file.with_suffix(".draft")
    draft.write_bytes(data)
    draft.replace(file)
