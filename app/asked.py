"""One call as it was asked for, and the answers that it can get: JSON for a model, whatever happened.

Knows no rule and no tool; nothing that it says may steer the model's template.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.approvals import Approval
from app.ledger import Status
from app.messages import ToolCall, ToolResult
from app.policy.rules import Verdict
from app.store.audit import Intent

_STEERS = re.compile(r"<|\[(?=[A-Z/])")
"""What chat templates build their marks of (``<|im_start|>``, ``</tool_call>``, ``[INST]``). In JSON both stand inside
texts only, where an escape means the same: the engine would read a mark in a file's text as a real one."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Who called what, when, and until when."""

    call: ToolCall
    actor: str
    session: str | None
    turn: int | None
    tell: Callable[[Approval], None] | None
    """Shows a call that waits to a person, where there is one."""
    deadline_s: float
    """When the turn's time for tools is over, on ``time.monotonic``'s clock; infinite without one."""
    begin_s: float

    @property
    def rest_s(self) -> float:
        """Seconds that the turn leaves to its calls."""
        return self.deadline_s - time.monotonic()

    def intent(self, verdict: Verdict, approved_by: str | None) -> Intent:
        """What the audit is told before anything happens."""
        call = self.call
        return Intent(
            self.actor,
            self.session,
            self.turn,
            call.name,
            call.arguments,
            verdict.answer,
            verdict.reason,
            approved_by,
        )

    def answer(self, status: Status, content: dict[str, Any] | str, reason: str) -> ToolResult:
        """The call's result; ``content`` is JSON already, or becomes it."""
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        text = text.encode(errors="replace").decode()
        safe = _STEERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        return ToolResult(self.call, status, safe, reason, time.monotonic() - self.begin_s)

    def failed(self, code: str, sentence: str, *, reason: str, status: Status = "error") -> ToolResult:
        """An error: a code for programs, a sentence for the model."""
        return self.answer(status, {"status": "error", "code": code, "error": sentence}, reason)

    def denied(self, reason: str) -> ToolResult:
        """A no of the policy's, or of a person's."""
        return self.failed("denied", reason, reason=reason, status="denied")

    def out_of_time(self, reason: str) -> ToolResult:
        """The turn has no time left for it."""
        sentence = "The time for tools in this turn is used up. Answer with what you have."
        return self.failed("turn_timeout", sentence, reason=reason)

    def our_own_fault(self) -> ToolResult:
        """For what nobody foresaw: the log keeps the traceback, the model need not know it."""
        return self.failed("internal_error", "AirLab failed; its log says why.", reason="failed inside AirLab")
