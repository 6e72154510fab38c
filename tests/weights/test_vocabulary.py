"""Whether one model can guess tokens for another: judged by headers as llama.cpp judges by whole vocabularies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf as oracle
import pytest

from app.weights.gguf import read_header
from app.weights.vocabulary import Vocabulary, differences
from tests.support.gguf import minimal_gguf, text, u32, u64, with_tokens
from tests.support.service import MODEL_FILE

MODEL = Vocabulary("gpt2", 49_152, "a", adds_bos=True, bos=1, adds_eos=False, eos=2)


def vocabulary(tmp_path: Path, data: bytes) -> Vocabulary | None:
    file = tmp_path / "m.gguf"
    file.write_bytes(data)
    return read_header(file).vocabulary


def known(tmp_path: Path, data: bytes) -> Vocabulary:
    found = vocabulary(tmp_path, data)
    assert found is not None
    return found


def test_vocabulary_of_the_embedded_model_is_what_the_reference_reads() -> None:
    found, reader = read_header(MODEL_FILE).vocabulary, oracle.GGUFReader(MODEL_FILE)
    assert found is not None
    for name, value in (("model", found.kind), ("bos_token_id", found.bos), ("add_bos_token", found.adds_bos)):
        field = reader.get_field(f"tokenizer.ggml.{name}")
        assert field is not None
        assert value == field.contents()
    assert differences(found, found) is None


def test_file_without_tokens_has_no_vocabulary(tmp_path: Path) -> None:
    assert vocabulary(tmp_path, minimal_gguf()) is None
    assert vocabulary(tmp_path, minimal_gguf(tokenizer__ggml__model="gpt2")) is None
    assert vocabulary(tmp_path, minimal_gguf(tokenizer__ggml__model=5, tokenizer__ggml__tokens="no list")) is None


def test_number_of_another_type_than_it_should_be_counts_as_not_said(tmp_path: Path) -> None:
    odd = known(tmp_path, with_tokens(tokenizer__ggml__add_bos_token=1, tokenizer__ggml__bos_token_id="one"))
    assert (odd.adds_bos, odd.bos) == (None, None)


def test_same_tokens_go_together_and_others_do_not(tmp_path: Path) -> None:
    model = known(tmp_path, with_tokens())
    assert differences(known(tmp_path, with_tokens()), model) is None
    assert differences(known(tmp_path, with_tokens(prefix="s")), model) == "has other tokens than the model"


def test_first_tokens_are_special_and_not_compared(tmp_path: Path) -> None:
    """Fine-tunes rename them, and llama.cpp leaves them out, too."""
    tokens = [f"t{number}" for number in range(2000)]
    renamed = [*(f"<{number}>" for number in range(5)), *tokens[5:]]
    model, tuned = (known(tmp_path, _listing(each)) for each in (tokens, renamed))
    assert differences(tuned, model) is None
    assert differences(known(tmp_path, _listing([*renamed[:5], "?", *tokens[6:]])), model) is not None


def _listing(tokens: list[str]) -> bytes:
    listed = u32(9, 8) + u64(len(tokens)) + b"".join(map(text, tokens))
    return minimal_gguf(tokenizer__ggml__model="gpt2", tokenizer__ggml__tokens=listed)


def test_token_cannot_be_longer_than_any_is(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(_listing(["x" * 70_000, *map(str, range(2000))]))
    assert read_header(file).vocabulary is not None, "the first ones are passed over"
    file.write_bytes(_listing([*map(str, range(10)), "x" * 70_000, *map(str, range(2000))]))
    with pytest.raises(Exception, match="has a token of 70000 bytes, where 65536 are the most"):
        read_header(file)


@pytest.mark.parametrize(
    ("draft", "said"),
    [
        (MODEL, None),
        (replace(MODEL, tokens=49_152 + 128), None),
        (replace(MODEL, first=None), None),
        (replace(MODEL, adds_bos=None, bos=7), None),
        (replace(MODEL, eos=7), None),
        (replace(MODEL, kind="llama"), "makes tokens in another way ('llama', not 'gpt2')"),
        (replace(MODEL, tokens=32_000), "has 32000 tokens, and the model 49152"),
        (replace(MODEL, first="b"), "has other tokens than the model"),
        (replace(MODEL, bos=7), "begins a text with other tokens than the model"),
        (replace(MODEL, adds_bos=False), "begins a text with other tokens than the model"),
        (replace(MODEL, adds_eos=True), "ends a text with other tokens than the model"),
    ],
)
def test_rules_of_llama_cpp(draft: Vocabulary, said: str | None) -> None:
    """A token that is added by neither may have any number."""
    assert differences(draft, MODEL) == said
