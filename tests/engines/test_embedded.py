"""The embedded engine as AirLab sees it: a llama-server by its arguments, its API and its exits."""

from __future__ import annotations

import base64
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import xllamacpp

from app.engines import embedded

ROOT = Path(__file__).resolve().parents[2]
READY_LIMIT_S = EXIT_LIMIT_S = 30
MESSAGES = [{"role": "user", "content": "Say hi."}]


@pytest.fixture(scope="module")
def model() -> Path:
    path = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert path.is_file(), f"{path} is missing; run `make setup`"
    return path


class Served:
    """One embedded engine as a child process, with a client on its socket."""

    def __init__(self, address: Path, model: Path, *more: str, environment: dict[str, str] | None = None) -> None:
        self.socket = address
        command = [sys.executable, "-m", "app.engines.embedded", "--model", str(model), "--host", str(address)]
        shape = ["--ctx-size", "4096", "--parallel", "2", "--threads", "1", "--threads-http", "18", "--offline"]
        self.log = address.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *shape, *more],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=os.environ | (environment or {}),
            )
        self.client = httpx.Client(
            # No connection twice: it closes each after a stream, whatever its Keep-Alive says.
            transport=httpx.HTTPTransport(uds=str(address), limits=httpx.Limits(max_keepalive_connections=0)),
            base_url="http://engine",
            timeout=60,
        )

    def wait_until_ready(self) -> set[int]:
        """Poll /health; returns every status seen on the way."""
        seen: set[int] = set()
        limit_s = time.monotonic() + READY_LIMIT_S
        while 200 not in seen:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < limit_s, self.log.read_text()
            if self._listens():
                seen.add(self.client.get("/health").status_code)
            time.sleep(0.02)
        return seen

    def wait_until_it_minds_sigterm(self) -> None:
        """It is ready a moment earlier: until its own handler is there, the signal has its default effect."""
        status, limit_s = Path(f"/proc/{self.process.pid}/status"), time.monotonic() + READY_LIMIT_S
        while status.exists() and not _caught(status.read_text()) >> signal.SIGTERM - 1 & 1:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < limit_s, self.log.read_text()
            time.sleep(0.005)

    def _listens(self) -> bool:
        # Not by asking httpx: it leaks its socket where a unix socket refuses.
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def get(self, path: str) -> Any:
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, **body: Any) -> Any:
        answer = self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def exit_code(self) -> int:
        return self.process.wait(EXIT_LIMIT_S)

    def close(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


def _caught(status: str) -> int:
    """The signals that a process has handlers for, as the kernel tells them: a bit for each."""
    return int(status.partition("SigCgt:")[2].split()[0], 16)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Served]:
    """A ready engine for tests that only ask."""
    more = ["--alias", "smol", "--batch-size", "512", "--cache-ram", "64", "--cache-reuse", "32", "--metrics"]
    tuned = ["--n-gpu-layers", "0", "--cache-type-k", "q8_0", "--cache-type-v", "q8_0", "--fit", "off"]
    kind = ["--embeddings", "--pooling", "mean", "--no-webui", "--timeout", "600"]
    served = Served(tmp_path_factory.mktemp("e") / "s.sock", model, *more, *tuned, *kind)
    try:
        served.wait_until_ready()
        yield served
    finally:
        served.close()


@pytest.fixture
def own(tmp_path: Path, model: Path) -> Iterator[Served]:
    """An engine, just started, for a test that ends it."""
    served = Served(tmp_path / "s.sock", model)
    try:
        yield served
    finally:
        served.close()


def test_every_argument_reaches_llama_cpp(tmp_path: Path) -> None:
    """What is dropped here would run a model otherwise than the plan says."""
    template, adapter = tmp_path / "t.jinja", tmp_path / "a.gguf"
    template.write_text("{{ messages }}")
    adapter.touch()
    words = (
        "--model m.gguf --host /run/x.sock --port 9 --alias key --ctx-size 1024 --parallel 3 --threads 2 "
        "--threads-http 19 --batch-size 256 --cache-ram 99 --cache-reuse 32 --n-gpu-layers 7 --cache-type-k q8_0 "
        "--cache-type-v q5_1 --embeddings --pooling mean --numa isolate --no-webui --offline --metrics --no-slots "
        f"--fit off --timeout 33 --chat-template-file {template} --lora {adapter} --lora {adapter}"
    )
    params = embedded.params_for(embedded.parse(words.split()), xllamacpp)

    assert (params.model.path, params.hostnames, params.port) == ("m.gguf", ["/run/x.sock"], 9)
    assert (params.model_alias, params.n_ctx, params.n_parallel) == ({"key"}, 1024, 3)
    assert (params.cpuparams.n_threads, params.cpuparams_batch.n_threads, params.n_threads_http) == (2, 2, 19)
    assert (params.n_batch, params.cache_ram_mib, params.n_cache_reuse, params.n_gpu_layers) == (256, 99, 32, 7)
    assert (params.cache_type_k.name, params.cache_type_v.name) == ("GGML_TYPE_Q8_0", "GGML_TYPE_Q5_1")
    assert (params.embedding, params.pooling_type.name) == (True, "LLAMA_POOLING_TYPE_MEAN")
    assert (params.numa.name, params.ui, params.offline) == ("GGML_NUMA_STRATEGY_ISOLATE", False, True)
    assert (params.endpoint_metrics, params.endpoint_slots, params.fit_params) == (True, False, False)
    assert (params.timeout_read, params.timeout_write) == (33, 33)
    assert params.chat_template == "{{ messages }}"
    assert [(a.path, a.scale) for a in params.lora_adapters] == [(str(adapter), 1.0)] * 2


def test_argument_not_given_keeps_the_default_of_llama_cpp() -> None:
    params = embedded.params_for(embedded.parse(["--model", "m.gguf", "--host", "h"]), xllamacpp)
    default = xllamacpp.CommonParams()

    for name in ("n_ctx", "n_parallel", "n_batch", "n_gpu_layers", "fit_params", "endpoint_slots", "cache_type_k"):
        assert getattr(params, name) == getattr(default, name)


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        (["--jinja"], "unrecognized arguments: --jinja"),
        (["--par", "2"], "unrecognized arguments: --par 2"),
        (["-c", "512"], "unrecognized arguments: -c 512"),
        (["--ctx-size", "many"], "invalid int value: 'many'"),
        (["--cache-type-k", "q9"], "invalid choice: 'q9'"),
        (["--lora", "/no/such.gguf"], "there is no file /no/such.gguf"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    extra: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misread flag would run the model in a way nobody asked for."""
    with pytest.raises(SystemExit) as caught:
        embedded.parse(["--model", "m.gguf", "--host", "h", *extra])

    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert complaint in said
    assert said.count("\n") == 1


def test_each_slot_has_its_share_of_the_context(shared: Served) -> None:
    assert [slot["n_ctx"] for slot in shared.get("/slots")] == [2048, 2048]
    assert shared.get("/props")["default_generation_settings"]["n_ctx"] == 2048


def test_model_goes_by_its_alias_alone(shared: Served) -> None:
    """Without one, the path on this machine would be the model's name."""
    assert [model["id"] for model in shared.get("/v1/models")["data"]] == ["smol"]


def test_embeddings_are_the_same_as_numbers_and_as_base64(shared: Served) -> None:
    numbers = shared.post("/v1/embeddings", input="hello")["data"][0]["embedding"]
    packed = shared.post("/v1/embeddings", input="hello", encoding_format="base64")["data"][0]["embedding"]

    assert len(numbers) == 576
    assert struct.unpack("<576f", base64.b64decode(packed)) == pytest.approx(numbers, abs=1e-3)


def test_streamed_chat_says_the_same_as_a_plain_one(shared: Served) -> None:
    asked = {"messages": MESSAGES, "max_tokens": 12, "temperature": 0, "seed": 1}
    plain = shared.post("/v1/chat/completions", **asked)
    events = shared.client.post("/v1/chat/completions", json=asked | {"stream": True}).text

    assert plain["model"] == "smol"
    assert plain["usage"]["completion_tokens"] == 12
    assert plain["choices"][0]["message"]["content"]
    assert events.rstrip().endswith("data: [DONE]")
    assert events.count('"content":"') == 12


def test_metrics_are_served_and_the_page_is_not(shared: Served) -> None:
    assert "llamacpp:tokens_predicted_total" in shared.client.get("/metrics").text
    assert shared.client.get("/").status_code == 404


@pytest.mark.parametrize("stream", [True, False])
def test_slot_is_free_again_after_its_client_left(shared: Served, stream: bool) -> None:
    """A slot that works for nobody keeps the next conversation waiting."""
    asked = {"messages": MESSAGES, "max_tokens": 1500, "ignore_eos": True, "stream": stream}
    if stream:
        with shared.client.stream("POST", "/v1/chat/completions", json=asked) as answer:
            next(answer.iter_bytes())
    else:
        with pytest.raises(httpx.ReadTimeout):
            shared.client.post("/v1/chat/completions", json=asked, timeout=0.5)

    for _ in range(20):
        time.sleep(1.3)  # asked more often, /slots itself delays the cancellation
        if not any(slot["is_processing"] for slot in shared.get("/slots")):
            return
    pytest.fail("the slot still works for a client that is gone")


def test_sigterm_ends_it_cleanly_and_removes_the_socket(own: Served) -> None:
    assert own.wait_until_ready() <= {200, 503}
    own.wait_until_it_minds_sigterm()
    own.process.send_signal(signal.SIGTERM)

    assert own.exit_code() == 0
    assert not own.socket.exists()


def test_sigterm_ends_it_while_a_stream_is_open(own: Served) -> None:
    """The stock server hangs here; ours has no reason to."""
    own.wait_until_ready()
    own.wait_until_it_minds_sigterm()
    asked = {"messages": MESSAGES, "max_tokens": 1500, "ignore_eos": True, "stream": True}
    with own.client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        next(answer.iter_bytes())
        own.process.send_signal(signal.SIGTERM)

        assert own.exit_code() == 0
    assert not own.socket.exists()


def test_end_of_stdin_ends_it_too(own: Served) -> None:
    """Our end of the pipe closes when we die, however we die: it must not outlive us."""
    own.wait_until_ready()
    assert own.process.stdin is not None
    own.process.stdin.close()

    assert own.exit_code() == 0
    assert not own.socket.exists()


def test_stale_socket_of_a_dead_server_is_no_obstacle(own: Served, tmp_path: Path, model: Path) -> None:
    own.wait_until_ready()
    own.process.kill()
    own.process.wait()
    assert own.socket.exists()

    successor = Served(own.socket, model)
    try:
        successor.wait_until_ready()
    finally:
        successor.close()


def test_model_that_cannot_load_ends_it_with_a_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF, or so it says")
    served = Served(tmp_path / "s.sock", broken)
    try:
        assert served.exit_code() == 1
    finally:
        served.close()

    # llama.cpp writes its log in a thread of its own, and a line in pieces: ours need be neither the last nor alone.
    lines = served.log.read_text().splitlines()
    assert any(f"embedded engine: cannot serve {broken}" in line for line in lines), lines
    assert not served.socket.exists()


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        ("libgomp.so.1: cannot open shared object file: No such file or directory", "apt-get install libgomp1"),
        ("no module of that name", "make setup"),
    ],
)
def test_wheel_that_does_not_import_is_answered_with_the_way_out(
    tmp_path: Path, model: Path, cause: str, advice: str
) -> None:
    """The wheel needs libgomp from the system, which slim images do not have."""
    (tmp_path / "xllamacpp.py").write_text(f"raise ImportError({cause!r})\n")
    served = Served(tmp_path / "s.sock", model, environment={"PYTHONPATH": str(tmp_path)})
    try:
        assert served.exit_code() == 1
    finally:
        served.close()

    said = served.log.read_text()
    assert advice in said
    assert said.count("\n") == 1
