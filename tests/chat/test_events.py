"""The JSON answer is the events of the turn, folded."""

from __future__ import annotations

import pytest

from app.chat import events
from app.chat.events import Notice, Reasoning, Token, ToolEnded, ToolStarted, TurnDone, TurnOpened, Waiting, fold

DONE = TurnDone(session_id="s", model="m", device="CPU", finish_reason="stop", tokens_input=3)


def ended(name: str, arguments: str, status: str = "ok", *, ran: bool = True) -> ToolEnded:
    return ToolEnded(
        id="c", name=name, arguments=arguments, status=status, result="{}", verdict="why", duration_s=0.1, ran=ran
    )


def test_answer_holds_the_words_the_calls_and_the_notices_but_not_the_thoughts() -> None:
    answer = fold(
        [
            Waiting(model="m", state="starting", ahead=0),
            TurnOpened(session_id="s", turn=1, model="m"),
            Reasoning(text="hmm"),
            Token(text="Wait"),
            ToolStarted(id="c", name="a", arguments="{}"),
            ended("a", '{"hostname": "google.com"}'),
            Notice(message="note"),
            Token(text="\n\nDone."),
            DONE,
        ]
    )

    assert answer["response"] == "Wait\n\nDone."
    assert answer["tools_used"] == ["a(google.com)"]
    assert [call["name"] for call in answer["tool_calls"]] == ["a"]
    assert answer["notices"] == ["note"]
    assert (answer["session_id"], answer["tokens_input"], answer["finish_reason"]) == ("s", 3, "stop")


def test_denied_call_is_listed_but_was_not_used() -> None:
    answer = fold([ended("a", "{}"), ended("b", "{}", "error"), ended("c", "{}", "denied", ran=False), DONE])

    assert [call["name"] for call in answer["tool_calls"]] == ["a", "b", "c"]
    assert answer["tools_used"] == ["a()", "b()"]


def test_empty_branch_has_an_empty_answer() -> None:
    assert fold([TurnDone(session_id="s", model="m", device="CPU", finish_reason="reset")])["response"] == ""


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"hostname": "google.com"}', "google.com"),
        ('{"a": 1, "b": "x"}', "1, x"),
        ("{}", ""),
        ("{broken", "{broken"),
        ("[1, 2]", "[1, 2]"),
        ("", ""),
        ('{"a": "' + "x" * 500 + '"}', "x" * 200),
        ("[" * 100_000, "[" * 200),
        ('{"a": "\\ud800"}', '{"a": "\\ud800"}'),
        ("\ud800", "\ud800"),
    ],
    ids=lambda value: value[:12].encode("ascii", "replace").decode(),
)
def test_arguments_are_shown_as_a_person_would_write_them_whatever_they_are(arguments: str, shown: str) -> None:
    """A model wrote them; the turn is stored by then, so its answer must not fail."""
    assert events.short_arguments(arguments) == shown


def test_events_keep_their_names_on_the_wire() -> None:
    """Clients compare them."""
    names = {cls.__name__: cls.event for cls in events.TurnEvent.__subclasses__()}

    assert names == {
        "TurnOpened": "turn",
        "HistoryCut": "cut",
        "Waiting": "waiting",
        "Token": "token",
        "Reasoning": "reasoning",
        "ToolStarted": "tool_start",
        "ApprovalAsked": "approval",
        "ToolEnded": "tool_result",
        "Notice": "notice",
        "TurnDone": "done",
    }


def test_a_turn_that_was_kept_is_told_again_the_same() -> None:
    ended = events.ToolEnded(
        id="c", name="t", arguments="{}", status="ok", result="1", verdict="v", duration_s=0.5, ran=True
    )
    cut = events.HistoryCut(messages=1, tokens=2, shortened=0, budget_tokens=3, first_kept=4)
    told = [
        events.Waiting(model="m", state="starting", ahead=0),
        events.TurnOpened(session_id="s", turn=1, model="m", user_message_id=7),
        cut,
        *(events.Reasoning(text=piece) for piece in "ab"),
        *(events.Token(text=piece) for piece in "cd"),
        events.ToolStarted(id="c", name="t", arguments="{}"),
        ended,
        events.Notice(message="n"),
        *(events.Token(text=piece) for piece in "ef"),
    ]
    done = events.TurnDone(session_id="s", model="m", device="CPU", finish_reason="stop", tokens_total=9)

    again = events.replayed(events.kept(told, done), message_id=8)

    assert [event.text for event in again if isinstance(event, events.Token)] == ["cd", "ef"]
    assert events.fold(again) == {**events.fold([*told, done]), "message_id": 8, "replayed": True}
    assert [type(event) for event in again] == [
        type(event) for event in told if event not in (told[0], told[4], told[6], told[-1])
    ] + [events.TurnDone]
