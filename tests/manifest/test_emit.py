"""Values written into a manifest: read back they are the same, and neither reader nor person takes them for others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.manifest import emit
from app.manifest.nodes import compose
from app.manifest.problems import Source
from tests.manifest.handwriting import DOCUMENTS


def read(text: str) -> Any:
    root, problems = compose(Source("airlab.yaml", text))
    assert root is not None, problems
    assert problems == []
    return root.value


@settings(max_examples=200, deadline=None)
@given(DOCUMENTS, st.integers(1, 4))
def test_whatever_is_written_reads_as_it_was(document: dict[str, Any], step: int) -> None:
    block = "".join(f"{line}\n" for key, value in document.items() for line in emit.entry_lines(key, value, step=step))
    item = "".join(f"{line}\n" for line in emit.item_lines(document, step=step))

    for text in (block, emit.flow(document), emit.flow(document, quoted=True)):
        assert json.dumps(read(text)) == json.dumps(document)
    assert json.dumps(read(f"a:\n{item}")) == json.dumps({"a": [document]})


@pytest.mark.parametrize(
    "text",
    [
        *(
            "no",
            "Off",
            "NULL",
            "~",
            "",
            "12",
            "0x1f",
            "1e5",
            "1:30",
            "2026-01-31",
            "-1",
            ".5",
            " a",
            "a ",
            "a: b",
            "a #b",
        ),
        *(
            "#a",
            "- a",
            "*a",
            "&a",
            "!a",
            "|",
            ">",
            "%a",
            "@a",
            "`a",
            "{a",
            "[a",
            "'a",
            '"a',
            "? a",
            "a:",
            "~5GB",
            "a\tb",
        ),
    ],
)
def test_text_that_could_be_misread_stands_in_quotes(text: str) -> None:
    """Readers of YAML 1.1 make false of ``no`` and 90 of ``1:30``; people take 012 for a number."""
    written = emit.scalar(text)

    assert written.startswith('"')
    assert read(f"a: {written}\n") == {"a": text}


@pytest.mark.parametrize("text", ["smollm2-135m", "8k", "15m", "models/a b.gguf", "http://a/b", "it's", "é", "qwen:7b"])
def test_text_that_nobody_misreads_stands_plain(text: str) -> None:
    assert emit.scalar(text) == text


def test_between_brackets_colons_and_question_marks_need_quotes() -> None:
    """libyaml refuses ``[qwen:7b]``, which YAML allows."""
    assert emit.flow(["qwen:7b", "a,b", "why?", "a"]) == '["qwen:7b", "a,b", "why?", a]'


def test_what_cannot_be_seen_is_written_as_an_escape() -> None:
    assert emit.scalar("a\x1b[31m\u202e\u00a0\U000e0001") == '"a\\x1b[31m\\u202e\\xa0\\U000e0001"'


def test_lists_stay_on_a_line_while_they_fit_and_mappings_get_lines() -> None:
    value = {"kind": ["chat", "embedding"], "engine": {"kind": "native"}, "names": ["x" * 50, "y" * 50], "empty": []}

    assert emit.entry_lines("a", value, step=2) == [
        "a:",
        "  kind: [chat, embedding]",
        "  engine:",
        "    kind: native",
        "  names:",
        f"    - {'x' * 50}",
        f"    - {'y' * 50}",
        "  empty: []",
    ]


def test_short_mapping_in_a_list_stays_on_its_line() -> None:
    assert emit.item_lines({"path": "docs", "access": "read"}, step=2) == ["- {path: docs, access: read}"]
    assert emit.item_lines({"path": "d", "more": {"a": 1}}, step=2) == ["- path: d", "  more:", "    a: 1"]


def test_text_of_several_lines_stands_as_it_is_where_that_is_safe() -> None:
    assert emit.entry_lines("a", "one: 1\n\n  two\n", step=2) == ["a: |", "  one: 1", "", "    two"]
    assert emit.entry_lines("a", "one\ntwo", step=2) == ["a: |-", "  one", "  two"]
    for unsafe in (" one\ntwo", "one\n \ntwo", "one\ntwo\n\n", "one\r\ntwo", "\none\ntwo", "one\x07\ntwo"):
        [line] = emit.entry_lines("a", unsafe, step=2)
        assert read(line + "\n") == {"a": unsafe}
