"""A gate on real workers, with an audit in memory and rules that a test changes as it goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from app.approvals import Approval, Approvals
from app.gate import Gate
from app.journal import Fact, Journal
from app.messages import ToolCall, ToolResult
from app.policy.rules import Policy, Root
from app.store.audit import Intent
from app.tools.base import discover
from app.tools.toolbox import Toolbox
from tests.tools import canaries

BOUND_S = 30
F = TypeVar("F", bound=Fact)


@dataclass
class FakeAudit:
    """Remembers what it was told; fails when it is asked to."""

    intents: list[Intent] = field(default_factory=list)
    durable: list[bool] = field(default_factory=list)
    ends: list[tuple[int, str]] = field(default_factory=list)
    fail_intend: Exception | None = None
    fail_record: Exception | None = None

    async def intend(self, intent: Intent, *, durable: bool) -> int:
        self.durable.append(durable)
        if self.fail_intend is not None:
            raise self.fail_intend
        self.intents.append(intent)
        return len(self.intents)

    async def record(self, audit_id: int, *, status: str, duration_s: float, result_bytes: int, durable: bool) -> None:
        assert durable == self.durable[audit_id - 1]
        if self.fail_record is not None:
            raise self.fail_record
        assert duration_s >= 0
        assert result_bytes > 0
        self.ends.append((audit_id, status))

    @property
    def rows(self) -> list[tuple[str, str, str | None, str]]:
        """Of each call: the tool, the verdict, who allowed it, and how it ended."""
        ends = dict(self.ends)
        return [
            (intent.tool, intent.verdict, intent.approved_by, ends.get(number, "unfinished"))
            for number, intent in enumerate(self.intents, start=1)
        ]


class House:
    """A gate and what it stands on."""

    def __init__(self, root: Path, *, access: Literal["read", "write"] = "read", approval_s: float = 60.0) -> None:
        self.root = root
        self.facts: list[Fact] = []
        self.audit = FakeAudit()
        self.policy = Policy(
            discover() | {"spin": canaries.spin.spec, "crash": canaries.crash.spec},
            roots=(Root(PurePosixPath(root), access),),
            protected=(),
        )
        journal = Journal()
        journal.subscribe(self.facts.append)
        self.toolbox = Toolbox(journal, [spec.entry for spec in self.policy.tools.values()], warm=1)
        approvals = Approvals(journal, limit_s=approval_s)
        self.gate = Gate(lambda: self.policy, self.toolbox, self.audit, journal, approvals=approvals)

    async def call(self, name: str, arguments: dict[str, Any] | str, **more: Any) -> tuple[ToolResult, dict[str, Any]]:
        """One call, and what the model is told."""
        text = arguments if isinstance(arguments, str) else json.dumps(arguments)
        async with asyncio.timeout(BOUND_S):
            result = await self.gate.call(ToolCall("call_1", name, text), actor="key", session="s", turn=3, **more)
        return result, json.loads(result.content)

    def person(self, *, grant: bool, before: Callable[[], None] = lambda: None) -> Callable[[Approval], None]:
        """Somebody who answers at once; ``before`` happens while they think."""

        def answer(approval: Approval) -> None:
            before()
            self.gate.approvals.answer(approval.id, grant=grant, by="admin-key", actor=None)

        return answer

    def noted(self, kind: type[F]) -> list[F]:
        """The facts of one kind, in their order."""
        return [fact for fact in self.facts if isinstance(fact, kind)]

    async def close(self) -> None:
        """End every worker; nothing waits for anybody."""
        assert self.gate.approvals.pending() == ()
        async with asyncio.timeout(BOUND_S):
            await self.toolbox.close()
