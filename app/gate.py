"""One guarded call: arguments, judge, ask, judge again, audit, run, audit. A tool runs through here or not at all.

The one place where policy, which runs nothing, and tools, which ask nothing, meet, whoever calls. A no is an answer to
the model; so is every failure, ours included. Knows no chat and no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from app.approvals import Approval, Approvals, Outcome
from app.asked import Asked
from app.errors import ToolError
from app.journal import Fact, Journal
from app.ledger import Account, Ledger, Status
from app.messages import ToolCall, ToolResult
from app.policy.arguments import TEXT_BYTES, read_arguments
from app.policy.offer import shown, why_not
from app.policy.rules import Policy, Verdict, confinement_of, judge
from app.results import Results
from app.tools.base import ToolProblem, ToolSpec, WorkerKind
from app.tools.mcp import McpServers
from app.tools.toolbox import Toolbox
from app.turnguard import TurnGuard

log = logging.getLogger("airlab")

_NO: Mapping[Outcome, str] = {
    "refused": "the user does not allow it",
    "expired": "nobody allowed it in time",
    "closed": "nobody can be asked now",
}


@dataclass(frozen=True, slots=True)
class ToolRan(Fact):
    """A call was allowed and has ended."""

    tool: str
    status: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class ToolResultReused(Fact):
    """A call was allowed, and answered with what the same call returned a moment ago."""

    tool: str


@dataclass(frozen=True, slots=True)
class ToolDenied(Fact):
    """A call was refused by policy."""

    tool: str
    actor: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool in force."""

    spec: ToolSpec
    """As a model is shown it."""
    why_not: str | None
    """Why no call of it could run here and now, in words; None where one may."""


@dataclass(frozen=True, slots=True)
class _Decision:
    """What was decided on a call, by the rules of one moment."""

    policy: Policy
    verdict: Verdict
    approved_by: str | None = None

    @property
    def runs(self) -> bool:
        return self.verdict.answer == "allow" or (self.verdict.answer == "ask" and self.approved_by is not None)


class Gate:
    """Lets calls through, or says why not."""

    def __init__(
        self,
        live_policy: Callable[[], Policy],
        toolbox: Toolbox,
        audit: Account,
        journal: Journal,
        *,
        approvals: Approvals | None = None,
        servers: McpServers | None = None,
    ) -> None:
        """Take the policy in force at each call, not now."""
        self._servers = servers
        self._live_policy = live_policy
        self._toolbox = toolbox
        self._ledger = Ledger(audit, journal)
        self._journal = journal
        self._results = Results()
        self.approvals = approvals or Approvals(journal)
        """The calls that wait for a person."""

    @property
    def policy(self) -> Policy:
        """What is in force now, the tools of connected MCP servers among it."""
        return self._live_policy()

    def enforced(self) -> Mapping[WorkerKind, str | None]:
        """For each kind of worker, why the kernel does not confine it here; None where it does."""
        return self._toolbox.enforced()

    def gaps(self) -> Mapping[WorkerKind, str]:
        """For each kind of worker that tools in force need: why it does not run here, or runs without its wall."""
        policy, found = self._live_policy(), dict[WorkerKind, str]()
        for spec in policy.tools.values():
            why = self._wall_is_off(policy, spec) or self._unconfined(policy, spec)
            if why is not None:
                found[spec.kind] = why
        return found

    def offers(self) -> tuple[Offer, ...]:
        """The tools in force, those that cannot run here among them."""
        policy = self._live_policy()
        return tuple(Offer(shown(policy, spec), self._why_not(policy, spec)) for spec in policy.tools.values())

    def offered(self) -> tuple[tuple[ToolSpec, ...], str]:
        """The tools in force that can run on this system, as a model is shown them; and why others cannot, in words."""
        policy, offers = self._live_policy(), self.offers()
        if not offers:
            return (), policy.closed or "no tools are enabled; name some under tools.builtin in airlab.yaml"
        missing = dict[str, list[str]]()
        for offer in offers:
            if offer.why_not is not None:
                missing.setdefault(offer.why_not, []).append(offer.spec.name)
        words = "; ".join(f"without {', '.join(names)}: {why}" for why, names in missing.items())
        return tuple(offer.spec for offer in offers if offer.why_not is None), words

    async def call(  # every argument by its name but the first
        self,
        call: ToolCall,
        *,
        actor: str,
        session: str | None = None,
        turn: int | None = None,
        approvals: Callable[[Approval], None] | None = None,
        deadline_s: float | None = None,
        guard: TurnGuard | None = None,
    ) -> ToolResult:
        """Judge one call and run it if it may.

        Args:
            call: As the model wrote it.
            actor: Whose key it is done with.
            session: In which conversation.
            turn: In which turn.
            approvals: Shows a call that waits for a person's word to whoever may give it (``self.approvals``); it must
                neither block nor raise. Without it such a call is refused at once.
            deadline_s: When the turn's time for tools is over, on ``time.monotonic``'s clock; None: never.
            guard: The turn's; a call that failed too often in it is not tried again.

        Returns:
            The tool's result, or why there is none, in words that say what to try.

        Raises:
            asyncio.CancelledError: The caller went away; nothing waits for a person any more, and the tool's worker is
                killed.
        """
        ends_s = math.inf if deadline_s is None else deadline_s
        asked = Asked(call, actor, session, turn, approvals, ends_s, time.monotonic())
        if guard is not None and (why := guard.why_stopped(call)) is not None:
            return asked.failed("stopped", why, reason="failed too often in this turn")
        try:
            result = await self._guarded(asked, guard)
        except Exception:
            log.exception("a tool call failed inside AirLab")
            result = asked.our_own_fault()
        if guard is not None:
            guard.note(result)
        return result

    async def _guarded(self, asked: Asked, guard: TurnGuard | None) -> ToolResult:
        policy = self._live_policy()
        spec = policy.tools.get(asked.call.name)
        if spec is None:
            if policy.closed is not None:
                return asked.denied(f"Denied: {policy.closed}. Answer without tools.")
            names = ", ".join(policy.tools) or "none"
            sentence = f'There is no tool "{asked.call.name:.80}". There are: {names}.'
            return asked.failed("unknown_tool", sentence, reason="no such tool")
        more_bytes = 2 * policy.limits.write_bytes if spec.changes else 0
        try:
            arguments = read_arguments(spec, asked.call.arguments, limit_bytes=TEXT_BYTES + more_bytes)
        except ToolProblem as problem:
            return asked.failed(problem.code, problem.message, reason="the arguments do not fit")
        decision = await self._decide(asked, spec, arguments, guard)
        result, wants = await self._carry_out(asked, spec, arguments, decision)
        if wants is None:
            return result
        # It ran, and changed nothing: what it found there needs a permission that is asked for now.
        decision = await self._decide(asked, spec, arguments, guard, destroys=wants)
        result, _ = await self._carry_out(asked, spec, arguments, decision)
        return result

    async def _decide(
        self,
        asked: Asked,
        spec: ToolSpec,
        arguments: dict[str, Any],
        guard: TurnGuard | None,
        *,
        destroys: str | None = None,
    ) -> _Decision:
        """Judge; where a person has to say yes, ask, and judge again by the rules of the moment of the answer.

        ``destroys`` is what the tool said that it would overwrite, once it has.
        """
        before = self._judged(spec, arguments, destroys=destroys is not None)
        if before.verdict.answer != "ask":
            return before
        if asked.tell is None:
            why = "a person has to allow this, and the request offers nobody to ask (approvals: true)"
            return _refused(before, f"Denied: {why}. Do without it, or tell the user.")
        answer = await self.approvals.ask(
            asked.call,
            arguments,
            why=destroys or before.verdict.reason,
            actor=asked.actor,
            session=asked.session,
            rest_s=asked.rest_s,
            tell=asked.tell,
        )
        if answer.outcome != "granted":
            if guard is not None:
                guard.give_up(asked.call)
            return _refused(before, f"Denied: {_NO[answer.outcome]}. Do without it.")
        after = self._judged(spec, arguments, destroys=destroys is not None)
        if after.verdict.answer == "deny":
            return after
        verdict = replace(after.verdict, answer="ask", reason=f"{after.verdict.reason}; allowed by {answer.by}")
        return replace(after, verdict=verdict, approved_by=answer.by)

    def _judged(self, spec: ToolSpec, arguments: dict[str, Any], *, destroys: bool) -> _Decision:
        """By the policy in force now; one that cannot decide denies."""
        policy = self._live_policy()
        try:
            verdict = judge(policy, spec, arguments, destroys=destroys)
            off = self._why_not(policy, spec)
        except Exception:
            log.exception("the policy could not judge a call")
            verdict = Verdict("deny", f"Denied: AirLab could not judge this call of {spec.name}. Do without it.")
            off = None
        if verdict.answer != "deny" and off is not None:
            verdict = Verdict("deny", f"Denied: {spec.name} cannot run here ({off}). Do without it.")
        if (gap := self._unconfined(policy, spec)) is not None:
            verdict = replace(verdict, reason=f"{verdict.reason} (not confined by the kernel: {gap})")
        return _Decision(policy, verdict)

    def _unconfined(self, policy: Policy, spec: ToolSpec) -> str | None:
        """Why the kernel does not confine a tool that runs all the same, since policy.sandbox is degraded."""
        return self.enforced().get(spec.kind) if policy.sandbox == "degraded" and spec.risk == "read" else None

    def _why_not(self, policy: Policy, spec: ToolSpec) -> str | None:
        return why_not(policy, spec, self._wall_is_off(policy, spec))

    def _wall_is_off(self, policy: Policy, spec: ToolSpec) -> str | None:
        return None if spec.is_served else self._toolbox.why_not(confinement_of(policy, spec))

    async def _carry_out(
        self, asked: Asked, spec: ToolSpec, arguments: dict[str, Any], decision: _Decision
    ) -> tuple[ToolResult, str | None]:
        """Run what was allowed, written down before and after; and what the tool needs a permission for, if it does."""
        verdict, wants = decision.verdict, None
        if decision.runs and asked.rest_s <= 0:
            return asked.out_of_time(verdict.reason), None
        if decision.runs and (kept := self._results.get(decision.policy, spec, arguments)) is not None:
            self._journal.note(ToolResultReused(spec.name))
            return replace(asked.answer("ok", kept, "returned by the same call a moment ago"), ran=True), None
        durable = spec.risk != "read"
        audit_id = await self._ledger.before(asked.intent(verdict, decision.approved_by), durable=durable)
        if not decision.runs or verdict.confinement is None:
            self._journal.note(ToolDenied(spec.name, asked.actor))
            result = asked.denied(verdict.reason)
        elif audit_id is None:
            sentence = "AirLab could not write this call into its audit, so it did not run. Tell the user."
            return asked.failed("audit_failed", sentence, reason="not audited, so not run"), None
        else:
            result, wants = await self._run(asked, spec, arguments, decision, audit_id)
        if audit_id is not None:
            await self._ledger.after(audit_id, result, durable=durable)
        return result, wants

    async def _run(
        self, asked: Asked, spec: ToolSpec, arguments: dict[str, Any], decision: _Decision, audit_id: int
    ) -> tuple[ToolResult, str | None]:
        verdict = decision.verdict
        assert verdict.confinement is not None  # noqa: S101 # an allowing verdict has one; for the type checker
        limit_s = min(spec.timeout_s or verdict.confinement.limits.call_s, asked.rest_s)
        try:
            # The turn's end counts also while the call waits for its turn in the toolbox.
            async with asyncio.timeout(None if asked.deadline_s == math.inf else asked.rest_s):
                content = await self._done(spec, arguments, verdict, limit_s)
        except ToolError as exc:
            if exc.code == "needs_permission" and not verdict.may_destroy:
                return asked.denied(f"Denied: {exc.message}"), exc.message
            status: Status = "denied" if exc.code == "denied" else "error"
            result = asked.failed(exc.code, exc.message, reason=verdict.reason, status=status)
        except TimeoutError:
            result = asked.out_of_time(verdict.reason)
        except asyncio.CancelledError:
            gone = asked.failed("cancelled", "The caller went away.", reason=verdict.reason)
            await self._ledger.after(audit_id, gone, durable=spec.risk != "read")
            raise
        except Exception:
            log.exception("a tool call failed inside AirLab")
            result = asked.our_own_fault()
        else:
            result = asked.answer("ok", content, verdict.reason)
            self._results.put(decision.policy, spec, arguments, content)
        self._journal.note(ToolRan(spec.name, result.status, result.duration_s))
        return replace(result, ran=result.status != "denied"), None

    async def _done(self, spec: ToolSpec, arguments: dict[str, Any], verdict: Verdict, limit_s: float) -> str:
        if spec.is_served and self._servers is not None:
            return await self._servers.call(spec, arguments, limit_s)
        assert verdict.confinement is not None  # noqa: S101 # as in _run
        return await self._toolbox.run(spec, arguments, verdict.confinement, limit_s, may_destroy=verdict.may_destroy)


def _refused(decision: _Decision, reason: str) -> _Decision:
    """What was asked for, and not allowed."""
    return replace(decision, verdict=replace(decision.verdict, reason=reason), approved_by=None)
