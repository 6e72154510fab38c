"""What counts as a load that moves, and what an engine's end means, as plain calls."""

from __future__ import annotations

import pytest

from app.engines.base import Exit
from app.fleet.instance import _fault_of_exit, _moved, with_log

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("before", "now", "seconds"),
    [
        (None, (0.0, 0, 0), 0.1),
        ((1.0, 0, 0), (1.03, 0, 0), 0.1),
        ((1.0, 0, 0), (1.0, MIB, 0), 0.1),
        ((1.0, 0, 0), (1.0, 0, MIB), 0.1),
        ((1.0, 0, 0), (4.0, 0, 0), 100),
    ],
)
def test_load_that_works_reads_or_fills_memory_moves(
    before: tuple[float, ...] | None, now: tuple[float, ...], seconds: float
) -> None:
    assert _moved(before, now, seconds=seconds)


@pytest.mark.parametrize(
    ("now", "seconds"),
    [
        ((1.0, 0, 0), 60),
        ((1.01, 0, 0), 0.1),
        ((1.05, 4096, 8192), 25),
        ((1.4, 0, MIB), 119),
    ],
)
def test_answering_health_is_no_progress(now: tuple[float, ...], seconds: float) -> None:
    """A load that is stuck still answers our own questions, which takes it some time and memory."""
    assert not _moved((1.0, 0, 0), now, seconds=seconds)


def test_exit_code_while_it_loaded_is_a_verdict() -> None:
    fault = _fault_of_exit(Exit(1, ("loading", "", "it is Monday")), loading=True)
    assert fault.is_verdict
    assert fault.can_pass
    ended = "llama-server ended with exit code 1 while it loaded"
    assert fault.message == f"{ended}; its last lines: loading | it is Monday"


@pytest.mark.parametrize(
    ("line", "device"),
    [
        ("ggml_backend_cuda_buffer_type_alloc_buffer: allocating 90 MiB on device 0: cudaMalloc failed", "GPU"),
        ("alloc_tensor_range: failed to allocate CUDA0 buffer of size 97517568", "GPU"),
        ("ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 97517568", "host"),
        ("terminate called after throwing an instance of 'std::bad_alloc'", "host"),
    ],
)
@pytest.mark.parametrize("code", [1, -6])
def test_memory_that_is_short_at_the_start_is_tried_once_more(line: str, device: str, code: int) -> None:
    fault = _fault_of_exit(Exit(code, (line, "exiting")), loading=True)
    assert (fault.ran_out, fault.most, fault.is_verdict) == (device, 2, False)
    assert f"ran out of the {device}'s memory while it loaded" in fault.message


def test_fault_107_kill_for_want_of_memory_at_the_start_is_told_from_one_while_it_served() -> None:
    killed = Exit(-9, (), out_of_memory=True)
    assert _fault_of_exit(killed, loading=True).ran_out == "host"
    assert _fault_of_exit(killed, loading=False).ran_out is None


@pytest.mark.parametrize(("code", "loading"), [(-9, True), (-11, False), (0, False), (1, False)])
def test_signal_or_an_end_while_it_served_is_an_accident(code: int, *, loading: bool) -> None:
    assert not _fault_of_exit(Exit(code, ()), loading=loading).is_verdict


@pytest.mark.parametrize(
    "line",
    [
        "error: invalid argument: --wrong",
        "embedded engine: unrecognized arguments: --wrong",
        "gguf_init_from_file_impl: invalid magic characters: 'nope', expected 'GGUF'",
        "tether: cannot run /opt/llama-server: No such file or directory",
        "llama-server: error while loading shared libraries: libcuda.so.1: cannot open shared object file",
        "mtmd_init_from_file: error: mismatch between text model (n_embd = 576) and mmproj (n_embd = 512)",
        "E srv    load_model: failed to load multimodal model, '/models/eye.gguf'",
        "E srv    load_model: failed to load draft model, '/models/draft.gguf'",
    ],
)
def test_what_the_same_start_will_say_again_cannot_pass(line: str) -> None:
    assert not _fault_of_exit(Exit(1, (line, "the end")), loading=True).can_pass


def test_long_log_is_shown_by_its_last_five_lines() -> None:
    assert with_log("it ended", tuple("abcdefg")) == "it ended; its last lines: c | d | e | f | g"
    assert with_log("it ended", ()) == "it ended"
