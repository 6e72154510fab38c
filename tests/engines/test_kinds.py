"""What stands in for a container that cannot be started, and for which it must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.engines.base import Fit, Launch, Running
from app.engines.command import launch_for
from app.engines.kinds import Engines
from app.engines.native import NativeEngine
from app.errors import EngineAwayError, EngineError, GpuUnavailableError, ImageMissingError, LauncherRefusedError
from app.manifest.engine_sections import DockerEngineSection
from tests.fakes import run_spec


class Refusing:
    """Containers none of which starts."""

    def __init__(self, error: EngineError) -> None:
        self.error = error

    async def start(self, launch: Launch) -> Running:
        raise self.error

    async def sweep(self) -> None:
        """Nothing is left of what never was."""

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Of a profile that lets the native engine stand in, which here is a program that there is not."""
    engine = DockerEngineSection(kind="docker", image="airlab:cpu", fallback="native")
    return launch_for("small", run_spec(engine=engine), socket=tmp_path / "s.sock", environment={})


@pytest.mark.parametrize("error", [EngineAwayError, ImageMissingError, GpuUnavailableError])
async def test_what_the_host_lacks_is_stood_in_for(error: type[EngineError], launch: Launch, tmp_path: Path) -> None:
    engines = Engines(NativeEngine(tmp_path, tmp_path / "no-llama-server"), Refusing(error("no container")))

    with pytest.raises(EngineError, match="no-llama-server"):
        await engines.start(launch)


async def test_child_process_that_stands_in_has_the_place_without_gpus_that_it_could_not_use(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory is booked for the place already; without a part for GPUs, it takes no layers there."""
    monkeypatch.setattr(NativeEngine, "can_offload", False)
    numbers: dict[str, Any] = {"context_length": 512, "slots": 1, "gpu_layers": -1, "threads": 1}
    fit = Fit(**numbers, gpus=(0, 1), gpu_ids=("0", "1"), gpu_shares=(1, 1), cpus=(0, 1), node=0)
    engines = Engines(NativeEngine(tmp_path, None), Refusing(ImageMissingError("no container")))
    stood_in = engines._native(replace(launch, fit=fit))

    assert stood_in.fit == Fit(**numbers | {"gpu_layers": 0}, cpus=(0, 1), node=0)
    assert "CUDA_VISIBLE_DEVICES" not in stood_in.environment
    assert "--tensor-split" not in stood_in.arguments


@pytest.mark.parametrize("error", [EngineError("it is not walled in as asked"), LauncherRefusedError("another digest")])
async def test_what_could_not_be_walled_in_is_not_run_without_a_wall(
    error: EngineError, launch: Launch, tmp_path: Path
) -> None:
    engines = Engines(NativeEngine(tmp_path, tmp_path / "no-llama-server"), Refusing(error))

    with pytest.raises(EngineError) as caught:
        await engines.start(launch)
    assert caught.value is error
