"""The exact argument lists that llama-server is given, written out: a flag that changes, changes here first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app.engines.base import Fit, WeightsId
from app.engines.command import launch_for
from app.errors import EngineError
from tests.fakes import run_spec

SOCKET = Path("/run/airlab/7-m.sock")


def arguments(**run: object) -> list[str]:
    return list(launch_for("m", run_spec(**run), socket=SOCKET, environment={}).arguments)  # type: ignore[arg-type]


def value_of(flag: str, given: list[str]) -> str:
    assert given.count(flag) == 1
    return given[given.index(flag) + 1]


def test_arguments_of_a_plain_chat_model() -> None:
    # fmt: off
    assert arguments() == [
        "--model", "/models/m.gguf",
        "--host", "/run/airlab/7-m.sock",
        "--alias", "m",
        "--ctx-size", "4096",
        "--parallel", "1",
        "--threads", "1",
        "--threads-http", "17",
        "--batch-size", "512",
        "--cache-ram", "512",
        "--cache-reuse", "32",
        "--no-webui", "--offline",
    ]
    # fmt: on


def test_arguments_of_a_model_with_everything_set() -> None:
    given = arguments(
        kinds=frozenset({"chat", "embedding"}),
        context_length=8192,
        slots=4,
        gpu_layers=20,
        threads=6,
        cache_type="q8_0",
    )
    # fmt: off
    assert given == [
        "--model", "/models/m.gguf",
        "--host", "/run/airlab/7-m.sock",
        "--alias", "m",
        "--ctx-size", "32768",
        "--parallel", "4",
        "--threads", "6",
        "--threads-http", "20",
        "--batch-size", "1024", "--ubatch-size", "1024",
        "--cache-ram", "512",
        "--cache-reuse", "32",
        "--n-gpu-layers", "20",
        "--cache-type-k", "q8_0", "--cache-type-v", "q8_0",
        "--no-webui", "--offline",
        "--embeddings", "--pooling", "mean",
    ]
    # fmt: on


def test_every_slot_has_the_whole_context() -> None:
    """llama-server divides --ctx-size among its slots; context_length is what one conversation may have."""
    assert value_of("--ctx-size", arguments(context_length=4096, slots=3)) == str(3 * 4096)


def test_reranker_is_started_with_rank_pooling_and_reads_its_whole_context_at_once() -> None:
    """A query with a document must fit into one batch."""
    given = arguments(kinds=frozenset({"rerank"}), context_length=2048, slots=2)

    assert given[-3:] == ["--embeddings", "--pooling", "rank"]
    assert (value_of("--batch-size", given), value_of("--ubatch-size", given)) == ("2048", "2048")


@pytest.mark.parametrize(("layers", "said"), [(-1, "999"), (0, "0"), (33, "33")])
def test_layers_on_the_gpu(layers: int, said: str) -> None:
    assert value_of("--n-gpu-layers", arguments(gpu_layers=layers)) == said


def test_nothing_is_said_of_layers_where_nobody_did() -> None:
    assert "--n-gpu-layers" not in arguments(gpu_layers=None)


def test_adapters_are_laid_over_the_model_in_order() -> None:
    adapters = tuple(WeightsId(Path(f"/models/custom/{name}.gguf"), 1, 1) for name in ("b", "a"))
    given = arguments(adapters=adapters)
    assert [given[at + 1] for at, flag in enumerate(given) if flag == "--lora"] == [str(a.path) for a in adapters]


def test_arguments_of_a_model_that_sees_and_has_a_draft_model() -> None:
    eye, draft = (WeightsId(Path(f"/models/{name}.gguf"), 1, 1) for name in ("eye", "draft"))
    given = arguments(mmproj=eye, draft_model=draft, draft_tokens=5, cache_type="q8_0", threads=6)
    # fmt: off
    assert given[given.index("--cache-reuse") + 2:] == [
        "--cache-type-k", "q8_0", "--cache-type-v", "q8_0",
        "--mmproj", "/models/eye.gguf",
        "--spec-draft-model", "/models/draft.gguf",
        "--spec-type", "draft-simple",
        "--spec-draft-n-max", "5",
        "--spec-draft-threads", "6",
        "--spec-draft-type-k", "q8_0", "--spec-draft-type-v", "q8_0",
        "--no-webui", "--offline",
    ]
    # fmt: on


@pytest.mark.parametrize(("layers", "draft_layers", "on_gpu"), [(0, "0", False), (-1, "999", True), (7, "999", True)])
def test_projector_and_draft_model_follow_their_model_to_the_gpu(layers: int, draft_layers: str, on_gpu: bool) -> None:
    """Where no layer of the model may be on a GPU, llama-server would put these there by itself."""
    file = WeightsId(Path("/models/x.gguf"), 1, 1)
    given = arguments(mmproj=file, draft_model=file, gpu_layers=layers)

    assert value_of("--spec-draft-ngl", given) == draft_layers
    assert ("--no-mmproj-offload" not in given) == on_gpu


def test_adapter_that_llama_server_would_take_for_two_files_is_refused() -> None:
    """It splits the value of --lora at commas: the second half would be a path of the file name's choosing."""
    adapter = WeightsId(Path("/models/custom/a,b.gguf"), 1, 1)
    with pytest.raises(EngineError, match=r"takes /models/custom/a,b.gguf for two files; rename it"):
        arguments(adapters=(adapter,))


def test_numa_is_named_where_it_is_wanted_only() -> None:
    assert value_of("--numa", arguments(numa="distribute")) == "distribute"
    assert "--numa" not in arguments(numa="off")


def test_path_of_a_model_stays_one_argument() -> None:
    """There is no shell, and no name that could become a flag."""
    name = "--tools all; rm -rf $HOME.gguf"
    given = list(launch_for("m", run_spec(name), socket=SOCKET, environment={}).arguments)
    assert value_of("--model", given) == f"/models/{name}"
    assert "--tools" not in given


def test_environment_is_built_from_scratch() -> None:
    """LLAMA_ARG_* would add flags behind our back, and a key is none of an engine's business."""
    ours = {
        "PATH": "/usr/bin",
        "CUDA_VISIBLE_DEVICES": "0",
        "LD_LIBRARY_PATH": "/opt/lib",
        "HOME": "/root",
        "LLAMA_ARG_TOOLS": "all",
        "LLAMA_ARG_CTX_SIZE": "1",
        "LLAMA_API_KEY": "secret",
        "AIRLAB_ADMIN_KEY": "secret",
        "HF_TOKEN": "secret",
        "LD_PRELOAD": "/tmp/evil.so",
        "PYTHONPATH": "/tmp/evil",
    }
    assert launch_for("m", run_spec(), socket=SOCKET, environment=ours).environment == {
        "PATH": "/usr/bin",
        "CUDA_VISIBLE_DEVICES": "0",
        "LD_LIBRARY_PATH": "/opt/lib",
        "HOME": "/nonexistent",
        "LLAMA_ARG_VIDEO_FFMPEG_DIR": "/nonexistent",
    }


@pytest.mark.parametrize("character", ["a", "é"])
def test_socket_path_longer_than_the_kernel_takes_is_refused_with_a_way_out(character: str) -> None:
    room = 100 - len("/run//m.sock")
    fits = Path(f"/run/{'a' * room}/m.sock")
    assert launch_for("m", run_spec(), socket=fits, environment={}).socket == fits
    too_long = Path(f"/run/{character * room}a/m.sock")
    with pytest.raises(EngineError, match="longer than 100 bytes; point TMPDIR at a shorter folder"):
        launch_for("m", run_spec(), socket=too_long, environment={})


def test_model_without_a_file_has_no_launch() -> None:
    with pytest.raises(EngineError, match="m has no file on disk"):
        launch_for("m", run_spec(weights=None), socket=SOCKET, environment={})


def test_fit_says_the_numbers_that_the_run_leaves_open() -> None:
    run = replace(run_spec(context_length=None), slots=None)
    fit = Fit(2048, 3, -1, 5, cache_ram_mib=100, gpus=(1,))
    made = launch_for("m", run, socket=SOCKET, environment={"CUDA_VISIBLE_DEVICES": "0,1,2"}, fit=fit)
    given = list(made.arguments)
    assert [value_of(flag, given) for flag in ("--ctx-size", "--parallel", "--threads", "--cache-ram")] == [
        *("6144", "3", "5", "100")
    ]
    assert (value_of("--n-gpu-layers", given), value_of("--fit", given)) == ("999", "off")
    assert "--tensor-split" not in given
    # The model sees one card only, by the number that nvidia-smi gives it.
    assert made.environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert made.environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_several_gpus_get_their_shares() -> None:
    fit = Fit(2048, 1, -1, 5, gpus=(0, 3), gpu_shares=(23000, 12000))
    made = launch_for("m", run_spec(), socket=SOCKET, environment={}, fit=fit)
    assert value_of("--tensor-split", list(made.arguments)) == "23000,12000"
    assert made.environment["CUDA_VISIBLE_DEVICES"] == "0,3"


def test_llama_server_fits_by_itself_where_nobody_knows_the_gpus_memory() -> None:
    made = launch_for("m", run_spec(), socket=SOCKET, environment={}, fit=Fit(2048, 1, None, 5))
    assert "--fit" not in made.arguments
    assert "--n-gpu-layers" not in made.arguments


def test_model_that_is_kept_to_a_node_stays_there() -> None:
    made = launch_for(
        "m", run_spec(numa="per-node"), socket=SOCKET, environment={}, fit=Fit(2048, 1, 0, 5, cpus=(0, 1))
    )
    assert value_of("--numa", list(made.arguments)) == "isolate"
    assert made.fit is not None
    assert made.fit.cpus == (0, 1)


def test_model_that_is_larger_than_a_node_is_spread() -> None:
    """Asked to be kept to one, it fits none: its threads and its memory go over all."""
    made = launch_for("m", run_spec(numa="per-node"), socket=SOCKET, environment={}, fit=Fit(2048, 1, 0, 5))
    assert value_of("--numa", list(made.arguments)) == "distribute"


def test_numbers_that_are_open_are_small_where_no_memory_is_looked_at() -> None:
    run = replace(run_spec(context_length=None), slots=None)
    given = list(launch_for("m", run, socket=SOCKET, environment={}).arguments)
    assert (value_of("--ctx-size", given), value_of("--parallel", given)) == ("4096", "1")
