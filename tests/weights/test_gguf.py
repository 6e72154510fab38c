"""What a GGUF header says, with the reference package as the judge; and what is refused, in which words."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf as oracle
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import WeightsBrokenError
from app.weights.gguf import MAX_TEXT_BYTES, GgufFacts, facts_in, read_header
from app.weights.layout import Layout
from app.weights.reader import MAX_HEADER_BYTES
from tests.support.gguf import Tensor, Value, gguf, minimal_adapter, minimal_gguf, numbers, text, texts, u32, u64, value

MODEL_FILE = Path(__file__).resolve().parents[2] / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
ARCHITECTURE: dict[str, Value] = {"general.architecture": "llama"}

Read = Callable[[bytes], GgufFacts]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """The facts in a file of these bytes."""

    def read(data: bytes) -> GgufFacts:
        file = tmp_path / "m.gguf"
        file.write_bytes(data)
        return read_header(file)

    return read


@pytest.fixture
def refusal(read: Read) -> Callable[[bytes], str]:
    """What is said of a file of these bytes."""

    def refused(data: bytes) -> str:
        with pytest.raises(WeightsBrokenError) as caught:
            read(data)
        return caught.value.message

    return refused


def written(path: Path, *, model: bool = True, **arrays: np.ndarray[Any, Any]) -> oracle.GGUFWriter:
    """The reference writer, with tensors; for the test to add keys to, and ``close``."""
    writer = oracle.GGUFWriter(path, "qwen2")
    if model:
        writer.add_type("model")
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    return writer


def close(writer: oracle.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_embedded_model_is_read_as_the_reference_reads_it() -> None:
    facts = read_header(MODEL_FILE)
    reader = oracle.GGUFReader(MODEL_FILE)

    def said(key: str) -> Any:
        field = reader.get_field(key)
        assert field is not None
        return field.contents()

    assert (facts.architecture, facts.name) == (said("general.architecture"), said("general.name"))
    assert (facts.kind, facts.context_length) == (said("general.type"), said("llama.context_length"))
    assert facts.quantisation == oracle.LlamaFileType(said("general.file_type")).name.removeprefix("MOSTLY_")
    assert (facts.block_count, facts.embedding_length) == (said("llama.block_count"), said("llama.embedding_length"))
    assert facts.head_count == (said("llama.attention.head_count"),)
    assert facts.head_count_kv == (said("llama.attention.head_count_kv"),)
    assert facts.parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert facts.tensor_bytes == sum(int(tensor.n_bytes) for tensor in reader.tensors)
    assert (facts.has_chat_template, facts.knows_tools) == (True, "tools" in said("tokenizer.chat_template"))


def test_everything_the_reference_writes_is_read(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    writer = written(file, a=np.zeros((4, 32), np.float32), b=np.zeros((3, 2, 8), np.float16))
    writer.add_name("Qwen of the tests")
    writer.add_context_length(32768)
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_head_count([4, 8])
    writer.add_head_count_kv([2, 0])
    writer.add_key_length(16)
    writer.add_value_length(24)
    writer.add_sliding_window(1024)
    writer.add_file_type(oracle.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_token_list([f"token {number}" for number in range(3000)])
    writer.add_token_scores([0.5] * 3000)
    writer.add_chat_template("{% if tools %}{{ tools }}{% endif %}")
    writer.add_float64("a.number", 1e300)
    writer.add_int64("another.number", -(2**60))
    close(writer)

    assert read_header(file) == GgufFacts(
        architecture="qwen2",
        name="Qwen of the tests",
        kind="model",
        context_length=32768,
        parameters=4 * 32 + 3 * 2 * 8,
        quantisation="Q4_K_M",
        has_chat_template=True,
        knows_tools=True,
        adapter_type=None,
        base_names=(),
        block_count=2,
        embedding_length=64,
        head_count=(4, 8),
        head_count_kv=(2, 0),
        key_length=16,
        value_length=24,
        sliding_window=1024,
        tensor_bytes=4 * 32 * 4 + 3 * 2 * 8 * 2,
        layout=Layout(
            layer_bytes=(0, 0),
            input_bytes=0,
            output_bytes=4 * 32 * 4 + 3 * 2 * 8 * 2,
            repacked_bytes=(0, 0),
            parts=1,
            tokens=3000,
            merges=0,
            feed_forward_length=0,
            windowed=(False, False),
            latent_length=0,
        ),
        ranks=False,
    )


def test_every_quantisation_of_the_reference_goes_by_its_word(read: Read) -> None:
    for kind in oracle.LlamaFileType:
        if kind is not oracle.LlamaFileType.GUESSED:
            word = kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
            assert read(minimal_gguf(general__file_type=int(kind))).quantisation == word
            assert read(minimal_gguf(general__file_type=int(kind) | 1024)).quantisation == word, "a guess is one too"


@pytest.mark.parametrize(("kind", "size"), sorted(oracle.GGML_QUANT_SIZES.items()))
def test_tensor_of_every_type_takes_the_bytes_that_the_reference_says(
    read: Read, kind: oracle.GGMLQuantizationType, size: tuple[int, int]
) -> None:
    block, block_bytes = size
    facts = read(gguf(ARCHITECTURE, [Tensor("t", (block, 3), int(kind))], data=bytes(3 * block_bytes)))

    assert (facts.parameters, facts.tensor_bytes) == (3 * block, 3 * block_bytes)


def test_an_adapter_says_that_it_is_one_and_what_it_was_made_for(tmp_path: Path) -> None:
    file = tmp_path / "lora.gguf"
    writer = written(file, model=False, a=np.zeros((1, 32), np.float32))
    writer.add_type(oracle.GGUFType.ADAPTER)
    writer.add_string(oracle.Keys.Adapter.TYPE, "lora")
    writer.add_float32(oracle.Keys.Adapter.LORA_ALPHA, 1.0)
    writer.add_base_model_count(2)
    writer.add_base_model_name(0, "SmolLM2 135M")
    writer.add_base_model_name(1, "Another")
    close(writer)
    facts = read_header(file)

    assert (facts.is_adapter, facts.adapter_type) == (True, "lora")
    assert facts.base_names == ("SmolLM2 135M", "Another")


def test_what_a_header_does_not_say_is_not_made_up(read: Read) -> None:
    facts = read(gguf(ARCHITECTURE, []))

    assert (facts.name, facts.kind, facts.context_length, facts.quantisation) == (None, None, None, None)
    assert (facts.has_chat_template, facts.knows_tools, facts.is_adapter) == (False, False, False)
    assert (facts.block_count, facts.head_count, facts.sliding_window, facts.parameters) == (None, None, None, 0)


def test_a_part_of_a_model_does_not_speak_for_the_whole(read: Read) -> None:
    """The first of several files lists its own tensors only."""
    facts = read(minimal_gguf(split__count=3, llama__context_length=4096))

    assert (facts.parameters, facts.tensor_bytes, facts.context_length) == (None, None, 4096)


def test_a_type_of_tensor_that_is_newer_than_this_is_no_mistake(read: Read) -> None:
    facts = read(gguf(ARCHITECTURE, [Tensor("t", (5,), kind=999)]))

    assert (facts.parameters, facts.tensor_bytes) == (5, None)


def test_version_2_is_read_like_3(read: Read) -> None:
    assert read(gguf(ARCHITECTURE, version=2)) == read(gguf(ARCHITECTURE))


def test_a_second_template_for_tools_counts(read: Read) -> None:
    keys: dict[str, Value] = {
        "tokenizer.chat_template": "{{ messages }}",
        "tokenizer.chat_template.tool_use": "{{ tools }}",
    }

    assert read(gguf(ARCHITECTURE | keys)).knows_tools
    assert not read(gguf(ARCHITECTURE | {"tokenizer.chat_template": "{{ my_tools_are }}"})).knows_tools


def test_long_lists_are_passed_over_wherever_a_window_ends(read: Read) -> None:
    """Tokens are longer than a window together, and one of them lies across its end."""
    tokens = [b"x" * (length % 50_000) for length in range(1, 1_000_000, 9_999)]
    keys: dict[str, Value] = {"tokens": texts(tokens), "types": numbers(*range(5000)), "general.name": "behind them"}

    assert sum(map(len, tokens)) > 2 * 1024 * 1024
    assert read(gguf(ARCHITECTURE | keys)).name == "behind them"


def test_text_that_would_move_a_cursor_is_shown_without_it(read: Read) -> None:
    facts = read(minimal_gguf(general__name="a\x1b[2Jb\u202ec" + "x" * 500))

    assert facts.name is not None
    assert facts.name.startswith("a\ufffd[2Jb\ufffdc")
    assert len(facts.name) == 200


HEAD = b"GGUF" + u32(3)
NAMED = text("general.architecture") + value("llama")
T = Tensor("t")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"GG", "ends in the middle of its header, after 2 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"begins with b'vers'; .*pointer"),
        (b"<!DOCTYPE html>", "is no GGUF file"),
        (b"lmgg" + bytes(60), "is no GGUF file"),
        (gguf(ARCHITECTURE, version=0), "of version 0"),
        (gguf(ARCHITECTURE, version=1), "of version 1, and llama.cpp reads 2 and 3; to fix: convert it again"),
        (gguf(ARCHITECTURE, version=99), "of version 99"),
        (gguf(ARCHITECTURE, version=3 << 24), "for big-endian machines"),
        (HEAD + u64(2**64 - 1, 1), f"says that it has {2**64 - 1} tensors"),
        (HEAD + u64(1, 2**63), f"says that it has {2**63} keys"),
        (HEAD + u64(0, 1) + u64(2**63), f"a key of {2**63} bytes"),
        (HEAD + u64(0, 1) + text("k") + u32(8) + u64(2**63), f"a text under k of {2**63} bytes"),
        (HEAD + u64(0, 1) + text("k") + u32(8) + u64(1000), "ends in the middle"),
        (HEAD + u64(0, 1) + text("k") + u32(77), "under k a value of the type 77"),
        (HEAD + u64(0, 1) + text("k") + u32(9, 77) + u64(1), "under k a list of the type 77"),
        (HEAD + u64(0, 1) + text("k") + u32(9, 9) + u64(1) + u32(9, 9) + u64(1), "a list of the type 9"),
        (HEAD + u64(0, 1) + text("k") + u32(9, 8) + u64(2**64 - 1) + bytes(99), "ends in the middle"),
        (HEAD + u64(0, 1) + text("k") + u32(9, 8) + u64(2) + u64(2**64 - 1), "ends in the middle"),
        (HEAD + u64(0, 1) + text("k") + u32(9, 11) + u64(2**64 - 1), "ends in the middle"),
        (HEAD + u64(0, 1) + text("") + value(1), "a key without a name"),
        (HEAD + u64(0, 2) + NAMED + NAMED, "the key 'general.architecture' twice"),
        (gguf({}), "does not say its architecture"),
        (gguf({"general.architecture": 7}), "has 7 for general.architecture"),
        (minimal_gguf(general__name=7), "has 7 for general.name, which no model has"),
        (minimal_gguf(llama__context_length="long"), "has 'long' for llama.context_length"),
        (minimal_gguf(llama__context_length=u32(10) + u64(2**60)), f"has {2**60} for llama.context_length"),
        (minimal_gguf(llama__block_count=True), "has True for llama.block_count"),
        (minimal_gguf(llama__block_count=1.5), "has 1.5 for llama.block_count"),
        (minimal_gguf(general__alignment=0), "has 0 for general.alignment"),
        (minimal_gguf(general__alignment=48), "has 48 for general.alignment"),
        (minimal_gguf(general__alignment="x"), "has 'x' for general.alignment"),
        (gguf(ARCHITECTURE, [T, T]), "the tensor 't' twice"),
        (gguf(ARCHITECTURE, [Tensor("t" * 64)]), "a tensor's name of 64 bytes"),
        (gguf(ARCHITECTURE, [Tensor("t", (1,) * 5)]), "'t' of 5 dimensions, where 4 are the most"),
        (gguf(ARCHITECTURE, [Tensor("t", (2**32, 2**32))]), f"'t' of {2**64} values"),
        (gguf(ARCHITECTURE, [Tensor("t", (2**63, 0))]), "'t' of 0 values"),
        (gguf(ARCHITECTURE, [Tensor("t", (33,), kind=2)]), "rows of 33 values, no multiple of 32"),
        (gguf(ARCHITECTURE, [Tensor("t", offset=7)]), "at 7, no multiple of 32"),
        (gguf(ARCHITECTURE, [Tensor("t", offset=2**63)]), "it is not whole; to fix: copy or download it again"),
        (gguf(ARCHITECTURE, [Tensor("t", (1024,))]), "it is not whole"),
        (gguf(ARCHITECTURE, [Tensor("t", kind=999, offset=4096)]), "it is not whole"),
        (gguf(ARCHITECTURE)[:-40], "it is not whole"),
    ],
)
def test_fault_114_what_llama_cpp_could_not_load_is_refused_with_what_is_wrong(
    refusal: Callable[[bytes], str], data: bytes, words: str
) -> None:
    said = refusal(data)

    assert said.startswith("m.gguf ")
    assert "; to fix: " in said
    assert len(said) < 600
    assert re.search(words, said), said


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (u32(8) + u64(64 * 1024 * 1024), f"of {64 * 1024 * 1024} bytes, where {MAX_TEXT_BYTES} are the most"),
        (u32(9, 0) + u64(MAX_HEADER_BYTES), "a header of more than 64 MiB"),
        (u32(9, 8) + u64(2**40), "a header of more than 64 MiB"),
    ],
)
def test_fault_114_a_header_without_end_is_refused_however_large_the_file(
    tmp_path: Path, lie: bytes, words: str
) -> None:
    """The file really has those bytes: only a bound of our own ends this."""
    file = tmp_path / "m.gguf"
    file.write_bytes(HEAD + u64(0, 1) + text("tokenizer.chat_template") + lie)
    os.truncate(file, 2 * MAX_HEADER_BYTES)

    with pytest.raises(WeightsBrokenError, match=words):
        read_header(file)


def test_what_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    """Opening a FIFO would wait for a writer that never comes."""
    os.mkfifo(tmp_path / "fifo.gguf")
    (tmp_path / "folder.gguf").mkdir()

    for name in ("fifo.gguf", "folder.gguf"):
        with pytest.raises(WeightsBrokenError, match="is no regular file"):
            read_header(tmp_path / name)
    with pytest.raises(WeightsBrokenError, match=r"^none\.gguf cannot be read: No such file"):
        read_header(tmp_path / "none.gguf")


def test_fault_114_a_file_that_is_cut_short_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a mapping of it this would be a SIGBUS, and the end of the service."""
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf(ARCHITECTURE | {"tokens": texts([b"x" * 1000] * 3000)}))
    pread = os.pread

    def cutting(descriptor: int, count: int, position: int) -> bytes:
        found = pread(descriptor, count, position)
        os.truncate(file, 100)
        return found

    monkeypatch.setattr(os, "pread", cutting)
    with pytest.raises(WeightsBrokenError, match="was cut short while it was read"):
        read_header(file)


WHOLE = gguf(
    {
        **ARCHITECTURE,
        "general.name": "whole",
        "general.file_type": 15,
        "llama.context_length": 4096,
        "llama.attention.head_count": numbers(4, 8),
        "tokenizer.ggml.tokens": texts(["a", "b", "c"]),
        "tokenizer.chat_template": "{{ tools }}",
        "a.flag": True,
        "a.number": 0.5,
    },
    [Tensor("a"), Tensor("b", (4, 4), offset=32)],
    data=bytes(96),
)
NASTY = st.sampled_from([bytes(8), b"\xff" * 8, u64(2**63), u32(9, 9), u64(2**32), u32(8), b"GGUF", b"\x00"])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The whole file with a few stretches replaced, moved or dropped, and perhaps its end missing."""
    data = WHOLE
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        data = data[:start] + draw(NASTY | st.binary(max_size=12)) + data[end:]
    return data[: draw(st.integers(0, len(data)) | st.just(len(data)))]


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutated() | st.binary(max_size=200).map(lambda rest: HEAD + rest))
def test_fault_114_whatever_the_bytes_are_there_are_facts_or_words(read: Read, data: bytes) -> None:
    facts = None
    with suppress(WeightsBrokenError):
        facts = read(data)
    assert facts is None or (facts.architecture and (facts.parameters or 0) < 2**63 * 5)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(WHOLE)))
def test_beginning_of_a_file_says_what_the_file_says_or_nothing_yet(read: Read, length: int) -> None:
    """Of a file that is to be downloaded no more is here; it must not look broken for that."""
    assert facts_in("m.gguf", WHOLE[:length], len(WHOLE)) in {None, read(WHOLE)}


def test_beginning_without_the_tensors_data_is_enough() -> None:
    assert facts_in("m.gguf", WHOLE[:-96], len(WHOLE)) is not None


@settings(max_examples=300, deadline=None)
@given(mutated(), st.integers(0, 2**64))
def test_whatever_a_server_sends_first_there_are_facts_words_or_nothing_yet(data: bytes, size_bytes: int) -> None:
    with suppress(WeightsBrokenError):
        facts = facts_in("m.gguf", data, size_bytes)
        assert facts is None or facts.architecture


def test_the_builders_of_other_tests_build_what_is_whole(read: Read) -> None:
    assert read(minimal_gguf()).kind == "model"
    assert read(minimal_adapter("Base")).base_names == ("Base",)
    assert read(WHOLE).head_count == (4, 8)


def test_header_full_of_lists_keeps_no_more_of_them_than_models_have(read: Read) -> None:
    """Nine times as long in memory as on disk, each of four looks at a hub's files would take 300 MiB."""
    heads: dict[str, Value] = {"llama.attention.head_count": numbers(4, 8)}
    lists: dict[str, Value] = {f"list.{number}": numbers(*range(1024)) for number in range(64)}
    assert read(gguf(ARCHITECTURE | heads | lists)).head_count == (4, 8)
    assert read(gguf(ARCHITECTURE | lists | heads)).head_count is None
