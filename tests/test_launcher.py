"""The launcher: what it refuses, whom it hears, and what it removes. Docker is in memory here, the socket is real."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from app.devices.cpu import Node
from app.devices.gpus import Gpu
from app.devices.probe import Host
from app.engines.base import Exit, Fit, Launch, RunSpec
from app.engines.command import as_written
from app.engines.container import spec_digest
from app.engines.docker import DockerEngine
from app.engines.launched import LaunchedEngine, gpus_through
from app.engines.wire import numbers_of
from app.errors import EngineAwayError, EngineError, GpuUnavailableError, ImageMissingError, LauncherRefusedError
from app.launcher import Launcher, Recipes
from app.live.inputs import first_snapshot
from app.manifest.load import read_manifest
from app.settings import Settings
from app.units import MIB
from tests.fakes import run_spec
from tests.support.gguf import gguf, minimal_gguf, with_tokens

_BOUND_S = 20
NODES = (Node((0, 1), None, 0), Node((2, 3), None, 1))
MANIFEST = """
version: 1
default_model: small
profiles:
  gpu: {match: {gpu: RTX}, engine: {kind: docker, image: "lab:cuda", gpus: all}, n_gpu_layers: all, cache_type: q8_0}
  cpu: {engine: {kind: docker, image: "lab:cpu"}}
  plain: {engine: {kind: native}}
  some: {engine: {kind: docker, image: "lab:cuda", gpus: ["1", "2"], cpuset: "0-1"}}
models:
  small: {filename: small.gguf, context_length: 2048}
  lost: {filename: lost.gguf}
"""


@dataclass(eq=False)
class Container:
    """A container in memory."""

    launch: Launch
    socket: Path
    container: str = "0123456789ab"
    image_id: str = "sha256:1"
    end: asyncio.Future[Exit] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def activity(self) -> tuple[float, ...]:
        return (1.5, 2.0, 3.0)

    def last_lines(self) -> tuple[str, ...]:
        return ("loaded",)

    async def exited(self) -> Exit:
        return await asyncio.shield(self.end)

    async def stop(self, *, grace_s: float) -> bool:
        await asyncio.sleep(0)
        if not self.end.done():
            self.end.set_result(Exit(-15, ("stopped",)))
        return True


class Docker:
    """Docker in memory."""

    def __init__(self) -> None:
        self.started: list[Container] = []
        self.sweeps = 0
        self.smi = ""
        self.asked_images: list[str] = []
        self.refused: EngineError | None = None
        self.asked, self.born, self.may_start = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.may_start.set()

    async def start(self, launch: Launch) -> Container:
        self.asked.set()
        await self.may_start.wait()
        if self.refused is not None:
            raise self.refused
        self.started.append(Container(launch, Path(f"/c/{launch.socket.stem}/llama.sock")))
        self.born.set()
        return self.started[-1]

    async def sweep(self) -> None:
        self.sweeps += 1

    async def nvidia_smi(self, images: list[str]) -> str:
        self.asked_images = images
        if self.refused is not None:
            raise self.refused
        return self.smi

    @property
    def alive(self) -> list[Container]:
        return [each for each in self.started if not each.end.done()]


@dataclass
class House:
    """A running launcher."""

    folder: Path
    docker: Docker
    socket: Path

    @property
    def manifest(self) -> Path:
        return self.folder / "airlab.yaml"

    def run(self, profile: str = "cpu", **more: Any) -> RunSpec:
        """The run that a service makes of the manifest under this profile."""
        settings = Settings(manifest=self.manifest)
        ask = _Ask("small")
        runs = Recipes(settings)._runs(ask.key)
        run = runs[("gpu", "cpu", "some").index(profile)]
        return replace(run, **{"gpu_layers": 0, "threads": 2, **more})

    def launch(self, run: RunSpec, number: int = 1) -> Launch:
        return Launch("small", (), Path(f"{number}-small.sock"), {}, run)


@dataclass
class _Ask:
    key: str


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="airlab-test-") as name:
        folder = Path(name).resolve()
        (folder / "models").mkdir()
        (folder / "models/small.gguf").write_bytes(minimal_gguf())
        (folder / "airlab.yaml").write_text(MANIFEST)
        yield folder


@asynccontextmanager
async def launcher(
    folder: Path, *, peer: int | None = None, lease_s: float = 30.0, nodes: tuple[Node, ...] = ()
) -> AsyncIterator[House]:
    docker, stopped, ready = Docker(), asyncio.Event(), asyncio.Event()
    socket = folder / "l/launcher.sock"
    recipes = Recipes(Settings(manifest=folder / "airlab.yaml"), lambda: nodes)
    serving = Launcher(cast(DockerEngine, docker), recipes, peer=os.getuid() if peer is None else peer, lease_s=lease_s)
    task = asyncio.create_task(serving.serve(socket, stopped, ready=ready.set))
    try:
        async with asyncio.timeout(_BOUND_S):
            await ready.wait()
            yield House(folder, docker, socket)
    finally:
        stopped.set()
        await task
    assert not docker.alive, "what it started must not outlive it"
    assert not socket.exists()


@asynccontextmanager
async def client(house: House) -> AsyncIterator[LaunchedEngine]:
    engine = LaunchedEngine(house.socket)
    try:
        yield engine
    finally:
        engine.close()


async def say(socket: Path, line: bytes) -> dict[str, Any]:
    """One line to the launcher, and its answer; empty where it closed instead."""
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        writer.write(line + b"\n")
        answer = await reader.readline()
    except ConnectionError:
        answer = b""
    finally:
        writer.close()
    return dict(json.loads(answer)) if answer else {}


async def test_model_is_started_from_the_launchers_own_reading_of_the_manifest(folder: Path) -> None:
    async with launcher(folder) as house, client(house) as engine:
        running = await engine.start(house.launch(house.run(context_length=512, threads=3)))
        [container] = house.docker.alive

        assert container.launch.run == house.run(context_length=512, threads=3)
        assert running.socket == container.socket
        assert running.container == "0123456789ab"
        assert await running.stop(grace_s=1)
        assert (await running.exited()).code == -15


async def test_profile_follows_from_the_digest(folder: Path) -> None:
    async with launcher(folder) as house, client(house) as engine:
        await engine.start(house.launch(house.run("gpu", gpu_layers=-1)))
        [container] = house.docker.alive

        assert container.launch.run.engine.kind == "docker"
        assert container.launch.run.engine.image == "lab:cuda"
        assert (container.launch.run.cache_type, container.launch.run.gpu_layers) == ("q8_0", -1)


async def test_what_it_does_and_says_comes_over_the_wire(folder: Path) -> None:
    async with launcher(folder) as house, client(house) as engine:
        running = await engine.start(house.launch(house.run()))
        assert running.activity() is None, "it was not looked yet"
        assert running._looking is not None
        await running._looking

        assert running.activity() == (1.5, 2.0, 3.0)
        assert running.last_lines() == ("loaded",)


async def test_what_a_container_did_before_its_launcher_went_away_is_no_sign_that_it_stands_still(folder: Path) -> None:
    """Else a long text that is read meanwhile would end its engine."""
    async with launcher(folder) as house, client(house) as engine:
        running = await engine.start(house.launch(house.run()))
        running.activity()
        assert running._looking is not None
        await running._looking
        assert running._activity == (1.5, 2.0, 3.0)
        running._instance = "9-unknown"
        await running._look()

        assert running._activity is None


async def test_end_of_a_container_is_told_with_its_reason(folder: Path) -> None:
    async with launcher(folder) as house, client(house) as engine:
        running = await engine.start(house.launch(house.run()))
        house.docker.started[0].end.set_result(Exit(-9, ("last",), out_of_memory=True))

        assert await running.exited() == Exit(-9, ("last",), out_of_memory=True)


async def test_error_of_docker_is_told_as_what_it_is(folder: Path) -> None:
    async with launcher(folder) as house, client(house) as engine:
        house.docker.refused = ImageMissingError("no lab:cpu here")
        with pytest.raises(ImageMissingError, match="no lab:cpu here"):
            await engine.start(house.launch(house.run()))
        house.docker.refused = EngineAwayError("Docker does not answer")
        with pytest.raises(EngineAwayError, match="Docker does not answer"):
            await engine.start(house.launch(house.run()))


async def test_fault_110_digest_of_another_manifest_is_refused(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever took the service over can have started only what the manifest's owner wrote."""
    caplog.set_level(logging.INFO, logger="airlab.launcher")
    async with launcher(folder) as house, client(house) as engine:
        run = house.run()
        assert run.weights is not None
        for other in (
            replace(run, engine=run.engine.model_copy(update={"image": "evil:1"})),
            replace(run, weights=replace(run.weights, path=Path("/etc/shadow"))),
            replace(run, cache_type="q4_0"),
        ):
            with pytest.raises(LauncherRefusedError, match="not what was asked for"):
                await engine.start(house.launch(other))
        house.manifest.write_text(MANIFEST.replace("lab:cpu", "lab:new"))
        with pytest.raises(LauncherRefusedError, match="if the manifest was changed just now"):
            await engine.start(house.launch(run))

        assert house.docker.started == []
    assert caplog.text.count("refused: ") == 4


async def test_fault_110_unknown_model_and_missing_file_are_refused(folder: Path) -> None:
    async with launcher(folder) as house, client(house) as engine:
        run = house.run()
        with pytest.raises(LauncherRefusedError, match="has no model nosuch that runs in a container"):
            await engine.start(replace(house.launch(run), key="nosuch"))
        house.manifest.write_text("version: 2\n")
        with pytest.raises(LauncherRefusedError, match="cannot read the manifest"):
            await engine.start(house.launch(run))


async def test_fault_110_extra_fields_and_nonsense_are_refused_and_audited(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with launcher(folder) as house:
        run = house.run()
        start = {"id": 5, "op": "start", "key": "small", "instance": "1-small", "digest": spec_digest(run)}
        start |= {**numbers_of(as_written(run)), "is_booked": False}
        for line in (json.dumps(start | {"image": "evil"}), json.dumps(start | {"cmd": ["sh"]}), "[]", "nonsense"):
            answer = await say(house.socket, line.encode())
            assert answer["kind"] == "refused"
        assert await say(house.socket, b"x" * 200_000) == {}, "a line without an end closes the connection"
        assert (await say(house.socket, json.dumps(start).encode()))["container"]
    assert caplog.text.count("refused: ") == 4
    assert "image: Extra inputs are not permitted" in caplog.text


async def test_fault_110_another_user_is_not_heard(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The kernel says who connects; nobody can claim to be somebody else."""
    async with launcher(folder, peer=os.getuid() + 1) as house:
        assert await say(house.socket, b'{"id": 1, "op": "beat"}') == {}
    assert f"user {os.getuid()}" in caplog.text


async def test_instance_that_runs_is_not_started_twice(folder: Path) -> None:
    async with launcher(folder) as house, client(house) as engine:
        await engine.start(house.launch(house.run()))
        with pytest.raises(LauncherRefusedError, match="1-small runs already"):
            await engine.start(house.launch(house.run()))


class Clock:
    """The launcher's clock, which goes as it is told; it can be seen that the launcher looked at it."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._looks: asyncio.Queue[None] = asyncio.Queue()

    def monotonic(self) -> float:
        self._looks.put_nowait(None)
        return self.now_s

    async def looked_at(self, times: int) -> None:
        """Wait until it was looked at so often from now on."""
        while not self._looks.empty():
            self._looks.get_nowait()
        for _ in range(times):
            await self._looks.get()


LEASE_S = 0.1
"""On the launcher's clock, which only the test sets forward; a tenth of it is how often the launcher really looks."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("app.launcher.time", clock)
    return clock


async def test_service_that_is_not_heard_loses_what_runs_for_it(
    folder: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with launcher(folder, lease_s=LEASE_S) as house:
        async with client(house) as engine:
            await engine.start(house.launch(house.run()))
            [container] = house.docker.alive
        clock.now_s += 1.1 * LEASE_S
        end = await container.exited()

        assert end.code == -15
        assert "was not heard" in caplog.text


async def test_service_that_is_heard_keeps_what_runs_for_it(folder: Path, clock: Clock) -> None:
    async with launcher(folder, lease_s=LEASE_S) as house, client(house) as engine:
        await engine.start(house.launch(house.run()))
        [container] = house.docker.alive
        for _ in range(5):
            clock.now_s += 0.9 * LEASE_S
            await engine._link.ask(op="beat")
            await clock.looked_at(3)
            assert not container.end.done()


async def test_container_gets_what_was_decided_for_it(folder: Path) -> None:
    """The books say so, and there is no second choice on the way."""
    async with launcher(folder, nodes=NODES) as house, client(house) as engine:
        run = house.run("gpu", gpu_layers=-1)
        numbers: dict[str, Any] = {"context_length": 2048, "slots": 1, "gpu_layers": -1, "threads": 2}
        gpus: dict[str, Any] = {"gpus": (0, 3), "gpu_ids": ("0", "3"), "gpu_shares": (23_000, 12_000)}
        fit = Fit(**numbers, **gpus, cache_ram_mib=256, cpus=NODES[1].cpus, node=1)
        await engine.start(replace(house.launch(run), fit=fit))
        [container] = house.docker.alive

        assert container.launch.fit == replace(fit, gpus=(), cpus=()), "those are told by their names and their node"


async def test_start_without_a_look_at_memory_is_told_as_one(folder: Path) -> None:
    """Then llama-server may fit by itself."""
    async with launcher(folder) as house, client(house) as engine:
        await engine.start(house.launch(house.run()))
        assert house.docker.alive[0].launch.fit is None


BEYOND: list[tuple[str, dict[str, Any], str]] = [
    ("cpu", {"gpu_ids": ("0",)}, "was to have the GPU 0"),
    ("some", {"gpu_layers": -1, "gpu_ids": ("0",)}, r"gives it gpus: \[1, 2\]"),
    ("some", {"gpu_layers": -1, "gpu_ids": ("1", "3"), "gpu_shares": (1, 1)}, "was to have the GPU 3"),
    ("some", {"node": 0}, "the manifest says cpuset or mems itself"),
    ("cpu", {"node": 7}, "NUMA node 7, which has no processors"),
]


@pytest.mark.parametrize(("profile", "asked", "why"), BEYOND)
async def test_fault_110_nobody_gets_more_over_the_wire_than_the_manifest_gives(
    folder: Path, profile: str, asked: dict[str, Any], why: str
) -> None:
    """Whoever took the service over may ask for any GPU and any node."""
    async with launcher(folder, nodes=NODES) as house, client(house) as engine:
        run = house.run(profile)
        with pytest.raises(LauncherRefusedError, match=why):
            await engine.start(replace(house.launch(run), fit=replace(as_written(run), **asked)))
        assert house.docker.started == []


async def test_launcher_that_is_started_anew_ends_what_it_does_not_know(folder: Path) -> None:
    """It swept them: the service learns so, and starts its models again."""
    async with launcher(folder) as first:
        engine = LaunchedEngine(first.socket)
        running = await engine.start(first.launch(first.run()))
        run = first.run()
    async with launcher(folder) as second:
        assert second.docker.sweeps == 1
        end = await running.exited()
        assert end.code != 0
        again = await engine.start(second.launch(run, number=2))
        assert await again.stop(grace_s=1)
        engine.close()


async def test_launcher_that_is_away_can_come_back(folder: Path) -> None:
    engine = LaunchedEngine(folder / "l/launcher.sock")
    with pytest.raises(EngineAwayError, match="does not answer at"):
        await engine.sweep()
    async with launcher(folder) as house:
        await engine.sweep()
        assert house.docker.sweeps == 2
        engine.close()


async def test_start_that_nobody_waits_for_is_removed(folder: Path) -> None:
    async with launcher(folder) as house, client(house) as engine:
        house.docker.may_start.clear()
        starting = asyncio.create_task(engine.start(house.launch(house.run())))
        await house.docker.asked.wait()
        starting.cancel()
        house.docker.may_start.set()
        await asyncio.wait({starting})
        await house.docker.born.wait()
        assert (await house.docker.started[0].exited()).code == -15


async def test_start_whose_answer_was_lost_is_removed_once_it_exists(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service is heard, so no lease ends: what it gave up would hold memory that was booked for nobody."""
    refused, stop = asyncio.Event(), Launcher._stop

    async def seen(self: Launcher, instance: str, grace_s: float) -> bool:
        gone = await stop(self, instance, grace_s)
        refused.set()
        return gone

    monkeypatch.setattr(Launcher, "_stop", seen)
    monkeypatch.setattr("app.engines.launched._AWAY_S", 0.01)
    async with launcher(folder) as house, client(house) as engine:
        house.docker.may_start.clear()
        starting = asyncio.create_task(engine.start(house.launch(house.run())))
        await house.docker.asked.wait()
        assert engine._link._writer is not None
        engine._link._writer.close()
        with pytest.raises(EngineAwayError):
            await starting
        await refused.wait()
        house.docker.may_start.set()
        await house.docker.born.wait()
        assert (await house.docker.started[0].exited()).code == -15


async def test_model_out_of_the_hubs_cache_is_the_same_for_both(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher looks for files where the service does, links of the cache included."""
    cache = folder / "cache"
    blob, snapshot = cache / "models--o--r/blobs/1", cache / "models--o--r/snapshots/1"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(minimal_gguf())
    snapshot.mkdir(parents=True)
    (snapshot / "r-Q4_K_M.gguf").symlink_to("../../blobs/1")
    (cache / "models--o--r/refs").mkdir()
    (cache / "models--o--r/refs/main").write_text("1")
    (folder / "airlab.yaml").write_text(MANIFEST + "  hub: {hf_repo: 'o/r:Q4_K_M'}\n")
    monkeypatch.setenv("LLAMA_CACHE", str(cache))
    monkeypatch.setenv("AIRLAB_PROFILE", "cpu")
    settings = Settings(manifest=folder / "airlab.yaml")
    snapshot_in_force = first_snapshot(read_manifest(settings.manifest), settings, Host(cores=4, can_offload=False))
    run = snapshot_in_force.models["hub"].run
    assert run.weights is not None

    assert spec_digest(run) in {spec_digest(each) for each in Recipes(settings)._runs("hub")}


async def test_model_with_a_projector_and_a_draft_model_is_the_same_for_both(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the service asks for and what the launcher makes of the manifest have the same files."""
    monkeypatch.setenv("AIRLAB_PROFILE", "cpu")
    (folder / "models/eye.gguf").write_bytes(gguf({"general.architecture": "clip", "general.type": "mmproj"}))
    files = "filename: small.gguf, mmproj: eye.gguf, draft_model: small.gguf"
    (folder / "airlab.yaml").write_text(
        MANIFEST + f"  sees: {{{files}, draft_tokens: 4, on: {{cpu: {{draft_tokens: 2}}}}}}\n"
    )
    (folder / "models/small.gguf").write_bytes(with_tokens())
    settings = Settings(manifest=folder / "airlab.yaml")
    snapshot = first_snapshot(read_manifest(settings.manifest), settings, Host(cores=4, can_offload=False))
    spec = snapshot.models["sees"]
    assert (spec.problem, spec.run.draft_tokens) == (None, 2)

    assert spec_digest(spec.run) in {spec_digest(each) for each in Recipes(settings)._runs("sees")}


async def test_start_that_is_begun_when_the_launcher_stops_leaves_nothing(folder: Path) -> None:
    docker, stopped, ready = Docker(), asyncio.Event(), asyncio.Event()
    docker.may_start.clear()
    recipes = Recipes(Settings(manifest=folder / "airlab.yaml"))
    serving = Launcher(cast(DockerEngine, docker), recipes, peer=os.getuid())
    house = House(folder, docker, folder / "l/launcher.sock")
    async with asyncio.timeout(_BOUND_S), client(house) as engine:
        task = asyncio.create_task(serving.serve(house.socket, stopped, ready=ready.set))
        await ready.wait()
        starting = asyncio.create_task(engine.start(house.launch(house.run())))
        await docker.asked.wait()
        stopped.set()
        with pytest.raises(EngineAwayError):
            await starting
        docker.may_start.set()
        await task

    assert len(docker.started) == 1
    assert docker.alive == []


async def test_run_for_another_engine_is_not_sent(folder: Path) -> None:
    async with launcher(folder) as house, client(house) as engine:
        with pytest.raises(EngineError, match="native is none for Docker"):
            await engine.start(house.launch(run_spec()))


SMI = "NVIDIA GeForce RTX 5070 Ti, 16303, 12.0, 580.95\n"


async def test_gpus_are_told_as_docker_sees_them(folder: Path) -> None:
    """In a container of its own, the service sees no GPU, and would take the wrong profile."""
    async with launcher(folder) as house:
        house.docker.smi = SMI
        answer = await asyncio.to_thread(gpus_through, house.socket)

        assert house.docker.asked_images == ["lab:cuda", "lab:cpu"], "what is to use them comes first"
        assert answer.gpus == (Gpu("NVIDIA GeForce RTX 5070 Ti", 16303 * MIB, 12.0, "580.95"),)


async def test_gpus_that_docker_cannot_hand_on_are_unknown_with_a_reason(folder: Path) -> None:
    async with launcher(folder) as house:
        house.docker.refused = GpuUnavailableError("no NVIDIA runtime")
        answer = await asyncio.to_thread(gpus_through, house.socket)

        assert answer.gpus is None
        assert answer.note == "the launcher cannot say: no NVIDIA runtime"


def test_launcher_that_is_not_there_is_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engines.launched._COMING_UP_S", 0.1)
    answer = gpus_through(folder / "nowhere.sock")

    assert answer.gpus is None
    assert "No such file" in answer.note
