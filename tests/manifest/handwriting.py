"""Writes values as YAML in many hands: with brackets or without, wide and narrow, with comments in odd places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from app.manifest import emit

WORDS = (
    "a",
    "b-c",
    "models",
    "é",
    "x.y",
    "q:7b",
    "no",
    "12",
    "8k",
    "#x",
    "two words",
    "a: b",
    "- c",
    "",
    "~",
    "{}",
    "😀",
)
SCALARS = st.one_of(
    st.sampled_from(WORDS),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
    st.integers(-(10**17), 10**17),
    st.integers(-9999, 9999).map(lambda thousandths: thousandths / 1000),
    st.booleans(),
    st.sampled_from(["one\ntwo\n", "one\n\n  two", "# no comment\nend\n", "a\n\n", " lead\nx"]),
)
KEYS = st.one_of(st.sampled_from(WORDS), st.text("abcdefgh_-.0123456789", min_size=1, max_size=8))
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=6,
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, min_size=1, max_size=5)


@dataclass
class Hand:
    """Somebody's way of writing, drawn anew wherever there is a choice."""

    draw: st.DrawFn
    step: int
    wild: bool
    """Comments and blank lines anywhere; else none, which shrinks to readable examples."""

    def yes(self, one_in: int = 3) -> bool:
        return self.wild and self.draw(st.integers(0, one_in - 1)) == one_in - 1

    def document(self, value: dict[str, Any]) -> list[str]:
        if self.yes(5):
            return self.flow(value, 0)
        head = ["# heading", *([""] if self.yes() else [])] if self.yes() else []
        head += ["---"] if self.yes(6) else []
        tail = ["...", "# after"] if self.yes(8) else []
        return [*head, *self.mapping(value, 0), *tail]

    def between(self, column: int) -> list[str]:
        """What may stand above an entry."""
        # No further to the right than what follows: below a `|`, further spaces would be text.
        blanks = st.lists(st.integers(0, column).map(lambda spaces: " " * spaces), min_size=1, max_size=2)
        lines = self.draw(blanks) if self.yes() else []
        return lines + ([" " * column + "# about what follows"] if self.yes() else [])

    def after(self, column: int, entry: list[str]) -> list[str]:
        """What may stand below an entry; below a text, a deeper line would be more of it."""
        if "|" in "".join(entry):
            return []
        lines = [" " * (column + 1) + "# deeper"] if self.yes(4) else []
        lines += ["", " " * (column + 2) + "# deeper: after a gap"] if self.yes(6) else []
        return lines + (["# at the margin"] if self.yes(8) else [])

    def remark(self) -> str:
        return self.draw(st.sampled_from(["  # remark", " # a: b, [c"])) if self.yes(4) else ""

    def scalar(self, value: Any, *, in_flow: bool = False) -> str:
        if isinstance(value, str) and value.isprintable() and self.yes():
            return "'" + value.replace("'", "''") + "'"
        return emit.scalar(value, in_flow=in_flow, quoted=self.yes())

    def mapping(self, value: dict[str, Any], column: int) -> list[str]:
        lines = []
        for key, part in value.items():
            below = self.value(part, column, in_list=False)
            entry = " " * column + self.scalar(key) + ":" + below[0]
            lines += [*self.between(column), entry, *below[1:], *self.after(column, below)]
        return lines

    def sequence(self, value: list[Any], column: int) -> list[str]:
        lines = []
        for part in value:
            below = self.value(part, column, in_list=True)
            lines += [*self.between(column), " " * column + "-" + below[0], *below[1:], *self.after(column, below)]
        return lines

    def value(self, value: Any, column: int, *, in_list: bool) -> list[str]:
        """The rest of the line after a colon or dash, and the lines below it."""
        if isinstance(value, str) and emit.after_key(value, step=1)[1] and not self.yes():
            head, rest = emit.after_key(value, step=self.step)
            return [f" {head}{self.remark()}", *(" " * column + line if line else "" for line in rest)]
        if not isinstance(value, dict | list) or not value:
            return [
                " " + (self.scalar(value) if not isinstance(value, dict | list) else emit.flow(value)) + self.remark()
            ]
        if self.yes(4):
            first, *rest = self.flow(value, column + 1)
            return [f" {first}", *rest]
        if in_list and self.yes(2):  # `- a: 1`
            first, *rest = self.tidy().block(value, column + 2)
            return [f" {first.lstrip()}", *rest]
        indentless = isinstance(value, list) and not in_list and self.yes()
        return [self.remark(), *self.block(value, column + (0 if indentless else self.step))]

    def tidy(self) -> Hand:
        return Hand(self.draw, self.step, wild=False)

    def block(self, value: Any, column: int) -> list[str]:
        return self.mapping(value, column) if isinstance(value, dict) else self.sequence(value, column)

    def flow(self, value: Any, column: int) -> list[str]:
        """Between brackets, on one line or on many; closed in a column that is deeper than the key's."""
        if not isinstance(value, dict | list):
            return [self.scalar(value, in_flow=True)]
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        if not value or self.yes(2):
            space, comma = (
                (" " if self.yes() else ""),
                (self.draw(st.sampled_from([",", " , "])) if value and self.yes() else ""),
            )
            inside = emit.flow(value, quoted=self.yes())[1:-1]
            return [opening + space + inside + comma + space + closing]
        lines = [opening + self.remark()]
        parts = list(value.items()) if isinstance(value, dict) else [(None, part) for part in value]
        for index, (key, part) in enumerate(parts):
            inner = self.flow(part, column + self.step)
            head = "" if key is None else self.scalar(key, in_flow=True) + ": "
            comma = "," if index < len(parts) - 1 or self.yes() else ""
            lines += self.between(column + self.step)
            lines += [" " * (column + self.step) + head + inner[0], *inner[1:]]
            lines[-1] += comma + self.remark()
        return [*lines, *self.between(column), " " * column + closing]


@st.composite
def written(draw: st.DrawFn, documents: st.SearchStrategy[dict[str, Any]] = DOCUMENTS) -> tuple[dict[str, Any], str]:
    """A document, and a text that says it."""
    value = draw(documents)
    lines = Hand(draw, draw(st.integers(1, 4)), draw(st.booleans())).document(value)
    eol = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))
    # Without its last line break, text below a `|` would be another text.
    return value, eol.join(lines) + (eol if draw(st.booleans()) or "|" in "".join(lines) else "")
