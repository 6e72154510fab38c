"""Writes each call into the audit, before it runs and when it has ended; says loudly where that failed.

Knows neither policy nor tools. A call whose intent could not be written must not run: seeing to that is the gate's.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal, Protocol

from app.journal import Journal, Trouble
from app.messages import ToolResult
from app.store.audit import Intent

Status = Literal["ok", "error", "denied"]


class Account(Protocol):
    """What is needed of the audit."""

    async def intend(self, intent: Intent, *, durable: bool) -> int:
        """Write down, durably or not, what is about to happen: the id to record its end under."""

    async def record(
        self, audit_id: int, *, status: Status, duration_s: float, result_bytes: int, durable: bool
    ) -> None:
        """Write down how it ended."""


@dataclass(frozen=True, slots=True)
class AuditFailed(Trouble):
    """A call could not be written down; before it ran, it did not run."""

    tool: str
    moment: Literal["before", "after"]
    error: str


class Ledger:
    """The audit, as the gate uses it: it answers, and never raises."""

    def __init__(self, audit: Account, journal: Journal) -> None:
        """Nothing is being written yet."""
        self._audit, self._journal = audit, journal
        self._writing: set[asyncio.Task[None]] = set()

    async def before(self, intent: Intent, *, durable: bool) -> int | None:
        """The id of the audit's row; None when it could not be written.

        ``durable``: also a power cut leaves it there, which a call that changes something must wait for.
        """
        try:
            return await self._audit.intend(intent, durable=durable)
        except Exception as exc:  # noqa: BLE001 # whatever keeps the audit from writing keeps the tool from running
            self._journal.note(AuditFailed(intent.tool, "before", f"{type(exc).__name__}: {exc}"))
            return None

    async def after(self, audit_id: int, result: ToolResult, *, durable: bool) -> None:
        """Write down how a call ended; to its end also when the caller goes away meanwhile."""
        task = asyncio.create_task(self._record(audit_id, result, durable=durable))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        await asyncio.shield(task)

    async def _record(self, audit_id: int, result: ToolResult, *, durable: bool) -> None:
        try:
            size_bytes = len(result.content.encode())
            await self._audit.record(
                audit_id,
                status=result.status,
                duration_s=result.duration_s,
                result_bytes=size_bytes,
                durable=durable,
            )
        except Exception as exc:  # noqa: BLE001 # the call has run: its result stands, the gap is said loudly
            self._journal.note(AuditFailed(result.call.name, "after", f"{type(exc).__name__}: {exc}"))
