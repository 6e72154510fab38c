"""Which figures of bench runs are drawn, and over what: prompts, contexts, slots. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from app.cli.benchbook import Kept
from app.cli.measuring import Measured
from app.cli.plot import Chart, Line, Sheet

_MOST_LINES = 12
_Value = Callable[[Measured], float | None]


def _gib(figure: Measured) -> float | None:
    return None if figure.memory_bytes is None else figure.memory_bytes / 2**30


_PROMPT, _ANSWERS = attrgetter("prompt_per_s"), attrgetter("total_per_s")
_FIRST_WORD, _LOAD = attrgetter("ttft_s"), attrgetter("load_s")
_CONTEXT, _SLOTS, _PROMPT_TOKENS = attrgetter("context_length"), attrgetter("slots"), attrgetter("prompt_tokens")


def sheets(kept: Sequence[Kept]) -> list[Sheet]:
    """Everything over the length of prompts; over contexts, and over slots, where a run measured several of them."""
    found = [_over_prompts(kept)]
    if _varies(kept, _CONTEXT):
        found.append(_over_loads(kept, "context", "tokens of context", _CONTEXT))
    if _varies(kept, _SLOTS):
        found.append(_over_loads(kept, "slots", "slots", _SLOTS))
    return found


def _over_prompts(kept: Sequence[Kept]) -> Sheet:
    """Of a model that was measured with several contexts the longest, whose prompts are the most."""
    longest: dict[tuple[object, ...], int] = {}
    for one in kept:
        group = (one.run, one.measured.model, one.measured.slots)
        longest[group] = max(longest.get(group, 0), one.measured.context_length or 0)
    shown = [
        one
        for one in kept
        if (one.measured.context_length or 0) == longest[one.run, one.measured.model, one.measured.slots]
    ]
    several = _varies(kept, _CONTEXT)

    def name(one: Kept) -> str:
        figure = one.measured
        context = f", context {figure.context_length}" if several and figure.context_length else ""
        return f"{_model(one)}{context}{_slots(figure)}, {figure.at_once} at once"

    drawn: tuple[tuple[str, _Value], ...] = (
        ("First word, seconds", _FIRST_WORD),
        ("Prompt, tokens per second of one request", _PROMPT),
        ("Answers, tokens per second of all requests", _ANSWERS),
        ("Memory, GiB", _gib),
    )
    return _sheet("By length of the prompt", "tokens in the prompt", shown, name, _PROMPT_TOKENS, drawn)


def _over_loads(kept: Sequence[Kept], by: str, x_title: str, over: Callable[[Measured], int | None]) -> Sheet:
    """What a load costs, and how fast it answers its shortest prompts: those that every context has room for."""
    shortest = list(_shortest(one for one in kept if over(one.measured) is not None))

    def name(one: Kept) -> str:
        figure = one.measured
        other = _slots(figure) if by == "context" else f", context {figure.context_length}"
        return f"{_model(one)}{other}"

    drawn: tuple[tuple[str, _Value], ...] = (
        ("Memory, GiB", _gib),
        ("Load time, seconds", _LOAD),
        ("First word, seconds", _FIRST_WORD),
        ("Answers, tokens per second of all requests", _ANSWERS),
    )
    title = f"By {by}; prompts of {_range(shortest)} tokens, as many at once as were measured"
    return _sheet(title, x_title, shortest, name, over, drawn)


def _range(kept: Iterable[Kept]) -> str:
    tokens = sorted({one.measured.prompt_tokens for one in kept})
    return " to ".join(map(str, dict.fromkeys((tokens[0], tokens[-1]))))


def _shortest(kept: Iterable[Kept]) -> Iterable[Kept]:
    """One figure of each load: the most requests at once, and of those the shortest prompt."""
    of_load: dict[tuple[object, ...], Kept] = {}
    for one in kept:
        figure = one.measured
        load = (one.run, figure.model, figure.quantisation, figure.context_length, figure.slots)
        best = of_load.get(load)
        if best is None or _rank(figure) < _rank(best.measured):
            of_load[load] = one
    return of_load.values()


def _rank(figure: Measured) -> tuple[int, int]:
    return -figure.at_once, figure.prompt_tokens


def _sheet(
    title: str,
    x_title: str,
    kept: Iterable[Kept],
    name: Callable[[Kept], str],
    over: Callable[[Measured], int | None],
    drawn: Sequence[tuple[str, _Value]],
) -> Sheet:
    series: dict[str, list[Measured]] = {}
    for one in kept:
        series.setdefault(name(one), []).append(one.measured)
    left_out = len(series) - _MOST_LINES
    # The newest are looked for; --runs and the models named choose others.
    shown = dict(list(series.items())[-_MOST_LINES:])
    charts = tuple(
        Chart(what, x_title, tuple(Line(key, _points(figures, over, value)) for key, figures in shown.items()))
        for what, value in drawn
    )
    return Sheet(f"{title}{f' (of {len(series)} series the last {_MOST_LINES})' if left_out > 0 else ''}", charts)


def _points(
    figures: Iterable[Measured], over: Callable[[Measured], int | None], value: _Value
) -> tuple[tuple[float, float], ...]:
    pairs = ((over(figure), value(figure)) for figure in figures)
    return tuple(sorted((float(x), float(y)) for x, y in pairs if x is not None and y is not None))


def _varies(kept: Iterable[Kept], of: Callable[[Measured], int | None]) -> bool:
    """Whether some run measured a model with several values of this."""
    seen: dict[tuple[int, str], set[int]] = {}
    for one in kept:
        if (value := of(one.measured)) is not None:
            seen.setdefault((one.run, one.measured.model), set()).add(value)
    return any(len(values) > 1 for values in seen.values())


def _model(one: Kept) -> str:
    kind = f" {one.measured.quantisation}" if one.measured.quantisation else ""
    return f"run {one.run}{f' {one.note}' if one.note else ''}: {one.measured.model}{kind}"


def _slots(figure: Measured) -> str:
    return "" if figure.slots is None else f", {figure.slots} slot{'s' if figure.slots > 1 else ''}"
