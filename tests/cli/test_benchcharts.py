"""What bench runs draw: over prompts always, over contexts and slots where they were measured."""

from __future__ import annotations

from app.cli.benchbook import Kept
from app.cli.benchcharts import sheets
from app.cli.measuring import Measured


def kept(run: int, context: int | None, slots: int | None, *, prompt: int = 128, at_once: int = 1) -> Kept:
    figure = Measured("a", "Q8_0", prompt, at_once, 3, 0.1, 1280.0, 40.0, 39.5, 2.5, 2**30, context, slots)
    return Kept(run, 1.0, "h", "", figure)


def test_figures_without_contexts_are_drawn_over_prompts_alone() -> None:
    """Those of earlier versions have none."""
    (sheet,) = sheets([kept(1, None, None), kept(1, None, None, prompt=512)])
    assert sheet.names == ["run 1: a Q8_0, 1 at once"]
    assert sheet.charts[0].lines[0].points == ((128.0, 0.1), (512.0, 0.1))


def test_contexts_and_slots_have_a_sheet_each_with_a_line_for_each_of_the_other() -> None:
    figures = [kept(1, context, slots) for context in (2048, 8192) for slots in (1, 2)]
    prompts, contexts, by_slots = sheets(figures)
    assert prompts.names == [
        "run 1: a Q8_0, context 8192, 1 slot, 1 at once",
        "run 1: a Q8_0, context 8192, 2 slots, 1 at once",
    ]
    assert contexts.names == ["run 1: a Q8_0, 1 slot", "run 1: a Q8_0, 2 slots"]
    assert by_slots.names == ["run 1: a Q8_0, context 2048", "run 1: a Q8_0, context 8192"]
    memory = contexts.charts[0]
    assert [line.points for line in memory.lines] == [((2048.0, 1.0), (8192.0, 1.0))] * 2


def test_load_is_drawn_by_its_fullest_and_shortest_figure() -> None:
    """Prompts that only long contexts have room for cannot be compared over contexts."""
    figures = [kept(1, context, 2, prompt=p, at_once=n) for context in (512, 4096) for p in (64, 256) for n in (1, 2)]
    contexts = sheets(figures)[1]
    assert "prompts of 64 tokens" in contexts.title
    assert len(contexts.charts[0].lines[0].points) == 2


def test_most_lines_are_those_of_the_newest_runs() -> None:
    sheet = sheets([kept(run, 2048, 1) for run in range(1, 31)])[0]
    assert sheet.names[-1] == "run 30: a Q8_0, 1 slot, 1 at once"
    assert len(sheet.names) == 12
    assert "of 30 series" in sheet.title
