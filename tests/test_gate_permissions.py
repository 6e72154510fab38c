"""What takes something away waits for a person, and is judged again when they have said yes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.approvals import Approval
from app.messages import ToolCall
from app.policy.rules import Policy
from app.tools.base import Protected
from app.turnguard import TurnGuard
from tests.support.gate import BOUND_S, House


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path, access="write")
    (tmp_path / "a.txt").write_text("precious")
    yield house
    await house.close()


def path(house: House) -> dict[str, str]:
    return {"path": f"{house.root}/a.txt"}


def write(house: House) -> dict[str, Any]:
    return {**path(house), "lines": ["new"]}


async def test_without_anybody_to_ask_it_is_denied_at_once(house: House) -> None:
    result, said = await house.call("delete_file", path(house))

    assert (result.status, said["code"], result.ran) == ("denied", "denied", False)
    assert "approvals: true" in said["error"]
    assert (house.root / "a.txt").exists()
    assert house.audit.rows == [("delete_file", "ask", None, "denied")]
    assert house.toolbox._pools == {}, "no worker was asked for"


async def test_granted_call_is_done_and_the_audit_says_by_whom(house: House) -> None:
    result, said = await house.call("delete_file", path(house), approvals=house.person(grant=True))

    assert (result.status, said, result.ran) == ("ok", {"status": "ok"}, True)
    assert not (house.root / "a.txt").exists()
    assert house.audit.rows == [("delete_file", "ask", "admin-key", "ok")]
    assert "allowed by admin-key" in result.reason


async def test_refused_call_is_not_done(house: House) -> None:
    result, said = await house.call("delete_file", path(house), approvals=house.person(grant=False))

    assert (result.status, result.ran) == ("denied", False)
    assert "the user does not allow it" in said["error"]
    assert (house.root / "a.txt").read_text() == "precious"
    assert house.audit.rows == [("delete_file", "ask", None, "denied")]


async def test_call_that_nobody_answers_in_time_is_not_done(tmp_path: Path) -> None:
    house = House(tmp_path, access="write", approval_s=0)
    (tmp_path / "a.txt").write_text("precious")
    asked: list[Approval] = []
    result, said = await house.call("delete_file", path(house), approvals=asked.append)

    assert result.status == "denied"
    assert "nobody allowed it in time" in said["error"]
    assert len(asked) == 1
    assert (tmp_path / "a.txt").exists()
    await house.close()


async def test_question_names_what_would_run(house: House) -> None:
    asked: list[Approval] = []

    def note(approval: Approval) -> None:
        asked.append(approval)
        house.person(grant=False)(approval)

    await house.call("delete_file", {**path(house), "recursive": True}, approvals=note)

    assert f'delete_file(path="{house.root}/a.txt", recursive=true)' in asked[0].words
    assert json.loads(asked[0].arguments) == {**path(house), "recursive": True}
    assert (asked[0].actor, asked[0].session, asked[0].call_id) == ("key", "s", "call_1")


Tighten = Callable[[House], Policy]


@pytest.mark.parametrize(
    "tightened",
    [
        lambda house: replace(house.policy, destructive="deny"),
        lambda house: replace(house.policy, roots=()),
        lambda house: replace(house.policy, roots=(replace(house.policy.roots[0], access="read"),)),
        lambda house: replace(house.policy, protected=(Protected(house.policy.roots[0].path / "a.txt", "exact"),)),
        lambda house: replace(house.policy, tools={}),
        lambda house: replace(house.policy, tools={}, closed="switched off"),
        lambda house: replace(
            house.policy, tools={"delete_file": replace(house.policy.tools["delete_file"], entry="else:where")}
        ),
    ],
    ids=["destructive", "no-root", "read-only", "protected", "tool-removed", "switched-off", "tool-replaced"],
)
async def test_rules_that_were_tightened_while_it_waited_deny_what_was_granted(
    house: House, tightened: Tighten
) -> None:
    """A yes was given under rules that are not in force any more."""

    def tighten() -> None:
        house.policy = tightened(house)

    result, _ = await house.call("delete_file", path(house), approvals=house.person(grant=True, before=tighten))

    assert (result.status, result.ran) == ("denied", False)
    assert (house.root / "a.txt").read_text() == "precious"
    assert house.audit.rows == [("delete_file", "deny", None, "denied")]


async def test_new_file_is_written_unasked_and_an_existing_one_is_not(house: House) -> None:
    fresh, _ = await house.call("write_file", {"path": f"{house.root}/b.txt", "lines": "new"})
    denied, said = await house.call("write_file", write(house))

    assert (fresh.status, (house.root / "b.txt").read_text()) == ("ok", "new")
    assert (denied.status, denied.ran) == ("denied", False)
    assert "approvals: true" in said["error"]
    assert (house.root / "a.txt").read_text() == "precious"


async def test_overwriting_is_asked_about_with_what_is_there_and_done_once_granted(house: House) -> None:
    asked: list[str] = []

    def note(approval: Approval) -> None:
        asked.append(approval.words)
        house.person(grant=True)(approval)

    result, _ = await house.call("write_file", write(house), approvals=note)

    assert result.status == "ok"
    assert (house.root / "a.txt").read_text() == "new\n"
    assert len(asked) == 1
    assert "would be overwritten" in asked[0]
    # The first row is the look that found the file; it changed nothing.
    assert house.audit.rows == [("write_file", "allow", None, "denied"), ("write_file", "ask", "admin-key", "ok")]


@pytest.mark.parametrize("tool", ["write_file", "delete_file"])
async def test_policy_that_forbids_it_asks_nobody(house: House, tool: str) -> None:
    house.policy = replace(house.policy, destructive="deny")
    arguments = write(house) if tool == "write_file" else path(house)
    result, said = await house.call(tool, arguments, approvals=house.person(grant=True))

    assert result.status == "denied"
    assert "policy.destructive" in said["error"]
    assert (house.root / "a.txt").read_text() == "precious"


@pytest.mark.parametrize("tool", ["write_file", "delete_file"])
async def test_policy_that_allows_it_asks_nobody(house: House, tool: str) -> None:
    house.policy = replace(house.policy, destructive="allow")
    arguments = write(house) if tool == "write_file" else path(house)
    result, _ = await house.call(tool, arguments)

    assert result.status == "ok"
    assert house.audit.rows == [(tool, "allow", None, "ok")]
    assert not (house.root / "a.txt").exists() or (house.root / "a.txt").read_text() == "new\n"


async def test_caller_who_leaves_while_it_waits_takes_the_call_along(house: House) -> None:
    asked: asyncio.Queue[Approval] = asyncio.Queue()
    waiting = asyncio.create_task(house.call("delete_file", path(house), approvals=asked.put_nowait))
    async with asyncio.timeout(BOUND_S):
        await asked.get()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert house.gate.approvals.pending() == ()
    assert (house.root / "a.txt").exists()
    assert house.toolbox._pools == {}


async def test_granted_call_whose_intent_cannot_be_written_does_not_run(house: House) -> None:
    house.audit.fail_intend = OSError("No space left on device")
    result, said = await house.call("delete_file", path(house), approvals=house.person(grant=True))

    assert (result.status, said["code"]) == ("error", "audit_failed")
    assert (house.root / "a.txt").exists()


async def test_refused_call_is_not_asked_about_again_in_the_same_turn(house: House) -> None:
    """A model that insists would wear a person down."""
    guard, asked = TurnGuard(), list[Approval]()

    def refuse(approval: Approval) -> None:
        asked.append(approval)
        house.person(grant=False)(approval)

    codes = [(await house.call("delete_file", path(house), approvals=refuse, guard=guard))[1]["code"] for _ in range(3)]

    assert codes == ["denied", "stopped", "stopped"]
    assert len(asked) == 1


async def test_time_to_answer_ends_with_the_turn(house: House) -> None:
    asked: list[Approval] = []
    result, _ = await house.call("delete_file", path(house), approvals=asked.append, deadline_s=0.0)

    assert result.status == "denied"
    assert (house.root / "a.txt").exists()


async def test_person_who_cannot_be_shown_the_question_is_a_no(house: House) -> None:
    def broken(_: Approval) -> None:
        raise BrokenPipeError

    result, said = await house.call("delete_file", path(house), approvals=broken)

    assert (result.status, said["code"]) == ("error", "internal_error")
    assert (house.root / "a.txt").exists()


async def test_text_of_a_whole_file_fits_into_the_arguments(house: House) -> None:
    lines = ["x" * 99] * 5000
    result, said = await house.call("write_file", {"path": f"{house.root}/big.txt", "lines": lines})

    assert (result.status, said) == ("ok", {"status": "ok", "bytes_written": 500_000})
    call = ToolCall("c", "read_file", json.dumps({"path": "/a" * 50_000}))
    assert "longer than 64 KiB" in (await house.gate.call(call, actor="key")).content
