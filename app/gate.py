"""One guarded call: arguments, judge, audit, run, audit. A tool runs through here or not at all, whoever asks.

The one place where policy, which runs nothing, and tools, which ask nothing, meet. A no is an answer to the model; so
is every failure, ours included. Knows no chat and no HTTP.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from app.errors import ToolError
from app.journal import Fact, Journal, Trouble
from app.messages import ToolCall, ToolResult
from app.policy.arguments import read_arguments
from app.policy.offer import shown
from app.policy.rules import Policy, Verdict, confinement_for, judge
from app.store.audit import Intent
from app.tools.base import ToolProblem, ToolSpec
from app.tools.toolbox import Toolbox

log = logging.getLogger("airlab")

Status = Literal["ok", "error", "denied"]

_STEERS = re.compile(r"<|\[(?=[A-Z/])")
"""What chat templates build their marks of (``<|im_start|>``, ``</tool_call>``, ``[INST]``). In JSON both stand inside
texts only, where an escape means the same: the engine would read a mark in a file's text as a real one."""


class Account(Protocol):
    """What the gate needs of the audit."""

    async def intend(self, intent: Intent) -> int:
        """Write down, durably, what is about to happen: the id to record its end under."""

    async def record(self, audit_id: int, *, status: Status, duration_s: float, result_bytes: int) -> None:
        """Write down how it ended."""


@dataclass(frozen=True, slots=True)
class ToolRan(Fact):
    """A call was allowed and has ended."""

    tool: str
    status: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class ToolDenied(Fact):
    """A call was refused by policy."""

    tool: str
    actor: str


@dataclass(frozen=True, slots=True)
class AuditFailed(Trouble):
    """A call could not be written down; before it ran, it did not run."""

    tool: str
    moment: Literal["before", "after"]
    error: str


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who called what, and when."""

    call: ToolCall
    actor: str
    session: str | None
    turn: int | None
    begin_s: float

    def answer(self, status: Status, content: dict[str, Any] | str, reason: str) -> ToolResult:
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        text = text.encode(errors="replace").decode()
        shown = _STEERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        return ToolResult(self.call, status, shown, reason, time.monotonic() - self.begin_s)

    def failed(self, code: str, sentence: str, *, reason: str, status: Status = "error") -> ToolResult:
        return self.answer(status, {"status": "error", "code": code, "error": sentence}, reason)

    def our_own_fault(self) -> ToolResult:
        """For what nobody foresaw: the log keeps the traceback, the model need not know it."""
        return self.failed("internal_error", "AirLab failed; its log says why.", reason="failed inside AirLab")


class Gate:
    """Lets calls through, or says why not."""

    def __init__(self, live_policy: Callable[[], Policy], toolbox: Toolbox, audit: Account, journal: Journal) -> None:
        """Take the policy in force at each call, not now."""
        self._live_policy = live_policy
        self._toolbox = toolbox
        self._audit = audit
        self._journal = journal
        self._writing: set[asyncio.Task[None]] = set()

    def offered(self) -> tuple[tuple[ToolSpec, ...], str]:
        """The tools in force that can run on this system, as a model is shown them; and why others cannot, in words."""
        policy = self._live_policy()
        if not policy.tools:
            return (), policy.closed or "no tools are enabled; name some under tools.builtin in airlab.yaml"
        specs, missing = [], dict[str, list[str]]()
        for spec in policy.tools.values():
            why = self._toolbox.why_not(confinement_for(policy, spec.kind))
            if why is None:
                specs.append(shown(policy, spec))
            else:
                missing.setdefault(why, []).append(spec.name)
        return tuple(specs), "; ".join(f"without {', '.join(names)}: {why}" for why, names in missing.items())

    async def call(
        self, call: ToolCall, *, actor: str, session: str | None = None, turn: int | None = None
    ) -> ToolResult:
        """Judge one call and run it if it may.

        Returns:
            The tool's result, or why there is none, in words that say what to try.

        Raises:
            asyncio.CancelledError: The caller went away; the tool's worker is killed.
        """
        asked = _Asked(call, actor, session, turn, time.monotonic())
        try:
            return await self._guarded(asked)
        except Exception:
            log.exception("a tool call failed inside AirLab")
            return asked.our_own_fault()

    async def _guarded(self, asked: _Asked) -> ToolResult:
        policy = self._live_policy()
        spec = policy.tools.get(asked.call.name)
        if spec is None:
            names = ", ".join(policy.tools) or "none"
            sentence = f'There is no tool "{asked.call.name:.80}". There are: {names}.'
            return asked.failed("unknown_tool", sentence, reason="no such tool")
        try:
            arguments = read_arguments(spec, asked.call.arguments)
        except ToolProblem as problem:
            return asked.failed(problem.code, problem.message, reason="the arguments do not fit")
        verdict = _decided(policy, spec, arguments)
        audit_id = await self._write_intent(asked, verdict)
        if verdict.answer != "allow" or verdict.confinement is None:
            self._journal.note(ToolDenied(spec.name, asked.actor))
            result = asked.failed("denied", verdict.reason, reason=verdict.reason, status="denied")
        elif audit_id is None:
            sentence = "AirLab could not write this call into its audit, so it did not run. Tell the user."
            return asked.failed("audit_failed", sentence, reason="not audited, so not run")
        else:
            result = await self._run(asked, spec, arguments, verdict, audit_id)
        if audit_id is not None:
            await self._write_outcome(audit_id, result)
        return result

    async def _run(
        self, asked: _Asked, spec: ToolSpec, arguments: dict[str, Any], verdict: Verdict, audit_id: int
    ) -> ToolResult:
        assert verdict.confinement is not None  # noqa: S101 # an allowing verdict has one; for the type checker
        limit_s = verdict.confinement.limits.call_s
        try:
            content = await self._toolbox.run(spec, arguments, verdict.confinement, limit_s)
        except ToolError as exc:
            status: Status = "denied" if exc.code == "denied" else "error"
            result = asked.failed(exc.code, exc.message, reason=verdict.reason, status=status)
        except asyncio.CancelledError:
            gone = asked.failed("cancelled", "The caller went away.", reason=verdict.reason)
            await self._write_outcome(audit_id, gone)
            raise
        except Exception:
            log.exception("a tool call failed inside AirLab")
            result = asked.our_own_fault()
        else:
            result = asked.answer("ok", content, verdict.reason)
        self._journal.note(ToolRan(spec.name, result.status, result.duration_s))
        return replace(result, ran=result.status != "denied")

    async def _write_intent(self, asked: _Asked, verdict: Verdict) -> int | None:
        """The id of the audit's row; None when it could not be written."""
        try:
            return await self._audit.intend(
                Intent(
                    actor=asked.actor,
                    session=asked.session,
                    turn=asked.turn,
                    tool=asked.call.name,
                    arguments=asked.call.arguments,
                    verdict=verdict.answer,
                    reason=verdict.reason,
                )
            )
        except Exception as exc:  # noqa: BLE001 # whatever keeps the audit from writing keeps the tool from running
            self._journal.note(AuditFailed(asked.call.name, "before", f"{type(exc).__name__}: {exc}"))
            return None

    async def _write_outcome(self, audit_id: int, result: ToolResult) -> None:
        async def write() -> None:
            try:
                size_bytes = len(result.content.encode())
                await self._audit.record(
                    audit_id, status=result.status, duration_s=result.duration_s, result_bytes=size_bytes
                )
            except Exception as exc:  # noqa: BLE001 # the call has run: its result stands, the gap is said loudly
                self._journal.note(AuditFailed(result.call.name, "after", f"{type(exc).__name__}: {exc}"))

        # Written to its end also when the caller goes away meanwhile.
        task = asyncio.create_task(write())
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        await asyncio.shield(task)


def _decided(policy: Policy, spec: ToolSpec, arguments: dict[str, Any]) -> Verdict:
    """The verdict; a policy that cannot decide denies."""
    try:
        return judge(policy, spec, arguments)
    except Exception:
        log.exception("the policy could not judge a call")
        return Verdict("deny", f"Denied: AirLab could not judge this call of {spec.name}. Do without it.")
