"""The menu of models at 80 and 120 columns, and what a person may answer to it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from app.cli.chat.loading import progress_of
from app.cli.chat.menu import chosen, menu, usable
from app.client.shapes import Model
from app.errors import AirLabError


def model(key: str, **more: Any) -> Model:
    given = {
        "name": key,
        "exists": True,
        "loaded": False,
        "state": "stopped",
        "source": "local",
        "context_length": 8192,
    }
    return Model(key, **{**given, **more})


MODELS = [
    model("smollm2-135m", loaded=True, state="ready", current=True, description="Small enough for any machine"),
    model("qwen2.5-7b-q4", exists=False, source="hf", recommended=True, vram_estimate="~5GB", context_length=32768),
    model("pirate", is_finetuned=True, base_model="smollm2-135m", state="failed"),
    model("broken", problem="models/broken.gguf is no GGUF file", context_length=1000),
    model("gone", exists=False, context_length=None),
    model("a-model-with-a-name-that-is-longer-than-anybody-would-care-to-read", fit={"fits": False}),
]


def shown(width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(menu(MODELS, width=width))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_menu_at_80_columns() -> None:
    assert shown(80) == [
        "#  model                           state       context  notes",
        "1  smollm2-135m                    ● loaded         8k  current",
        "2  qwen2.5-7b-q4                   ↓ download      32k  ★ recommended, ~5GB",
        "3  pirate                          ○ failed         8k  fine-tune of",
        "                                                        smollm2-135m",
        "4  broken                          ✗ problem      1000  models/broken.gguf is no",
        "                                                        GGUF file",
        "5  gone                            ✗ no file",
        "6  a-model-with-a-name-that-is-l…  ○ stopped        8k  does not fit",
    ]


def test_menu_at_120_columns_has_room_for_descriptions() -> None:
    lines = shown(120)

    assert len(lines) == 1 + len(MODELS)
    assert max(map(len, lines)) <= 120
    assert lines[1].endswith("current, Small enough for any machine")


def test_only_what_could_answer_is_a_choice() -> None:
    assert [each.key for each in usable(MODELS)] == ["smollm2-135m", "qwen2.5-7b-q4", "pirate", MODELS[5].key]


@pytest.mark.parametrize(("answer", "key"), [("2", "qwen2.5-7b-q4"), ("pirate", "pirate"), ("smol", "smollm2-135m")])
def test_number_name_and_beginning_of_a_name_choose(answer: str, key: str) -> None:
    assert chosen(MODELS, answer).key == key


def test_key_that_others_begin_with_chooses_itself() -> None:
    assert chosen([model("small"), model("small-2")], "small").key == "small"


@pytest.mark.parametrize("answer", ["0", "7", "nope", "²", "", "\x1b[2J"])
def test_answer_that_names_none_is_told_what_there_is(answer: str) -> None:
    with pytest.raises(AirLabError, match="names no models; there are smollm2-135m, ") as caught:
        chosen(MODELS, answer)

    assert "\x1b" not in caught.value.message.replace("\\x1b", "")


def test_beginning_of_several_names_names_these() -> None:
    with pytest.raises(AirLabError, match=r"names several models; there are small-1, small-2$"):
        chosen([model("small-1"), model("small-2"), model("other")], "small")


@pytest.mark.parametrize(
    ("download", "expected"),
    [
        (None, ("m is starting", 0, None)),
        (
            {"state": "verifying", "done_bytes": 1024, "total_bytes": 4096},
            ("m: verifying, 1.0 KiB of 4.0 KiB", 1024, 4096),
        ),
        ({"done_bytes": "many", "total_bytes": 0}, ("m: downloading, 0 B of 0 B", 0, None)),
        ({"state": "resolving", "done_bytes": 0, "total_bytes": None}, ("m is starting", 0, None)),
    ],
)
def test_progress_is_told_as_far_as_it_is_known(download: Any, expected: tuple[str, float, float | None]) -> None:
    assert progress_of(model("m", state="starting", exists=False, download=download)) == expected
