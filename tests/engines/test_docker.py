"""The Docker engine with a real daemon: what a container is, how it ends, and what is left when anything fails."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.devices.cpu import parse_cpu_list
from app.engines import daemon as daemon_module
from app.engines.base import WeightsId
from app.engines.command import as_written
from app.engines.container import NOBODY, body_of, differences, host_path, installation_of, spec_digest
from app.engines.docker import DockerEngine
from app.engines.docker_running import DockerRunning
from app.engines.kinds import host_nodes
from app.errors import EngineAwayError, EngineError, GpuUnavailableError, ImageMissingError
from app.fleet.upstream import Upstream
from app.units import MIB
from tests.engines.containers import container_run, launch
from tests.support.docker import (
    BOUND_S,
    IMAGE,
    collect_broken_connections,
    containers_below,
    derived_image,
    docker_api,
    short_folder,
    way_to_docker,
)
from tests.support.service import MODEL_FILE

pytestmark = [
    pytest.mark.docker,
    # Docker's library leaves a socket open that it could not connect, which here happens on purpose.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

_SLEEPS = "import time, signal\nprint('sleeps', flush=True)\nsignal.pause()\n"
CANARY = Path(__file__).with_name("canary.py")


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        (made / "m.gguf").write_bytes(b"GGUF")
        yield made


@pytest.fixture(scope="module")
def sleeper() -> Iterator[str]:
    """An image whose llama-server says one line and waits for a signal."""
    with derived_image(_SLEEPS, "sleeper") as image:
        yield image


@asynccontextmanager
async def engine_of(folder: Path, **environment: str) -> AsyncIterator[DockerEngine]:
    engine = DockerEngine(folder / "c", {**os.environ, **environment}, nodes=host_nodes)
    try:
        async with asyncio.timeout(2 * BOUND_S):
            yield engine
    finally:
        engine.close()
        collect_broken_connections()


def run_of(folder: Path, image: str = IMAGE, **section: Any) -> Any:
    return container_run(folder / "m.gguf", engine={"image": image, **section})


def real_run(**section: Any) -> Any:
    stat = MODEL_FILE.stat()
    run = container_run(MODEL_FILE, engine={"image": IMAGE, **section}, context_length=1024)
    return replace(run, weights=WeightsId(MODEL_FILE, stat.st_size, stat.st_mtime_ns))


def require_no_gpu() -> None:
    with docker_api() as api:
        if "nvidia" in api.info()["Runtimes"]:
            pytest.skip("this Docker can hand GPUs on, and what it does where it cannot is not to be seen")


async def ready(running: DockerRunning) -> Upstream:
    upstream = Upstream(running.socket)
    while not await upstream.healthy(timeout_s=2):
        assert not running._exit.done(), await running.exited()
        await asyncio.wait({running._exit}, timeout=0.05)
    return upstream


async def until_it_says(running: DockerRunning, text: str) -> None:
    """Wait for a line of its log."""
    while not any(text in line for line in running.last_lines()):
        assert not running._exit.done(), await running.exited()
        await asyncio.wait({running._exit}, timeout=0.1)


async def test_inspect_shows_the_hardened_set_field_by_field(folder: Path, sleeper: str) -> None:
    """The fields are written here once more, on purpose: this is what the word hardened means."""
    async with engine_of(folder) as engine:
        run = run_of(folder, sleeper, memory=256 * MIB, pids=64, cpuset="0", mems="0")
        running = await engine.start(launch(run))
        found = await engine.daemon.inspect(running.id)
        order = await engine.order_for(launch(run), instance="1-small")
        assert await running.stop(grace_s=5)

    host, config = found["HostConfig"], found["Config"]
    expected = {
        "NetworkMode": "none",
        "IpcMode": "private",
        "PidMode": "",
        "UTSMode": "",
        "UsernsMode": "",
        "Privileged": False,
        "ReadonlyRootfs": True,
        "CapAdd": None,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "Init": True,
        "PidsLimit": 64,
        "Memory": 256 * MIB,
        "MemorySwap": 256 * MIB,
        "OomScoreAdj": 500,
        "CpusetCpus": "0",
        "CpusetMems": "0",
        "Tmpfs": {"/tmp": f"rw,noexec,nosuid,nodev,size={256 * MIB},mode=1777"},
        "Binds": None,
        "VolumesFrom": None,
        "Devices": [],
        "DeviceRequests": None,
        "PortBindings": {},
        "PublishAllPorts": False,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": False,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
        "GroupAdd": None,
        "ExtraHosts": None,
        "Links": None,
        "Dns": None,
        "CgroupParent": "",
        "DeviceCgroupRules": None,
        "Runtime": "runc",
    }
    assert {name: host[name] for name in expected} == expected
    assert sorted((u["Name"], u["Soft"], u["Hard"]) for u in host["Ulimits"]) == [
        ("core", 0, 0),
        ("nofile", 4096, 4096),
    ]
    mounts = sorted((m for m in found["Mounts"] if m["Type"] != "tmpfs"), key=lambda mount: bool(mount["RW"]))
    assert not [m for m in found["Mounts"] if m["Type"] == "tmpfs" and m["RW"]]
    assert [(m["Source"], m["Destination"], m["RW"], m["Type"]) for m in mounts] == [
        (str(folder / "m.gguf"), "/m/0/m.gguf", False, "bind"),
        (str(folder / "c/1-small"), "/s", True, "bind"),
    ]
    assert "/proc/kcore" in host["MaskedPaths"]
    assert "/proc/sys" in host["ReadonlyPaths"]
    assert config["User"] == (NOBODY if os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}")
    assert config["Entrypoint"] == ["llama-server"]
    assert config["Cmd"][:4] == ["--model", "/m/0/m.gguf", "--host", "/s/llama.sock"]
    assert config["Healthcheck"]["Test"] == ["NONE"]
    assert config["StopSignal"] == "SIGTERM"
    assert list(found["NetworkSettings"]["Networks"]) == ["none"]
    labels = {name: value for name, value in config["Labels"].items() if name.startswith("dev.airlab.")}
    assert labels["dev.airlab.model"] == "small"
    assert labels["dev.airlab.spec"] == spec_digest(run)
    assert found["Image"] == sleeper
    assert differences(body_of(order), found) == []


async def test_container_has_the_processors_and_the_memory_of_the_node_that_was_booked(
    folder: Path, sleeper: str
) -> None:
    node = host_nodes()[0]
    run = run_of(folder, sleeper)
    fit = replace(as_written(run), cache_ram_mib=64, cpus=node.cpus, node=node.number)
    async with engine_of(folder) as engine:
        running = await engine.start(launch(run, fit=fit))
        found = await engine.daemon.inspect(running.id)
        assert await running.stop(grace_s=5)
        with pytest.raises(EngineError, match="which has no processors on this host"):
            await engine.start(launch(run, number=2, fit=replace(fit, node=1000)))

    host, told = found["HostConfig"], found["Config"]["Cmd"]
    assert parse_cpu_list(host["CpusetCpus"]) == node.cpus
    assert host["CpusetMems"] == str(node.number)
    assert "--numa" not in told
    assert (told[told.index("--cache-ram") + 1], told[told.index("--fit") + 1]) == ("64", "off")


async def test_model_without_layers_on_a_gpu_asks_for_none(folder: Path, sleeper: str) -> None:
    """So it starts also where Docker can hand none on."""
    async with engine_of(folder) as engine:
        running = await engine.start(launch(run_of(folder, sleeper, gpus="all")))
        assert await running.stop(grace_s=5)


async def test_real_model_answers_through_a_container(folder: Path) -> None:
    async with engine_of(folder) as engine:
        running = await engine.start(launch(real_run()))
        upstream = await ready(running)
        body = json.dumps({"prompt": "Hello", "n_predict": 4, "temperature": 0, "ignore_eos": True}).encode()
        async with await upstream.send("/completion", body) as answer:
            told = json.loads(await answer.read())
        assert told["content"]
        seen = running.activity()
        await asyncio.wait_for(running._looking or asyncio.sleep(0), BOUND_S)
        seen = running.activity() or seen
        assert seen is not None
        cpu_s, _, memory_bytes = seen
        assert cpu_s > 0
        assert memory_bytes > MIB
        await until_it_says(running, "listening")
        await upstream.close(EngineError("done"))

        assert await running.stop(grace_s=5)
        assert (await running.exited()).code == 0
        assert not running.socket.parent.exists()
        assert containers_below(folder) == []


async def test_exit_code_and_last_lines_outlive_the_container(folder: Path) -> None:
    with derived_image("print('no such model', flush=True)\nraise SystemExit(7)\n", "exits") as image:
        async with engine_of(folder) as engine:
            running = await engine.start(launch(run_of(folder, image)))
            end = await running.exited()
            assert await running.stop(grace_s=5)

    assert (end.code, end.last_lines, end.out_of_memory) == (7, ("no such model",), False)


async def test_container_that_ignores_the_request_to_stop_is_killed(folder: Path) -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\nwhile True: signal.pause()\n"
    stubborn = f"import signal\n{deaf}"
    with derived_image(stubborn, "stubborn") as image:
        async with engine_of(folder) as engine:
            running = await engine.start(launch(run_of(folder, image)))
            await until_it_says(running, "deaf")
            assert await running.stop(grace_s=0.5)

            assert (await running.exited()).code == -9


async def test_stop_goes_to_its_end_when_its_caller_is_cancelled(folder: Path, sleeper: str) -> None:
    async with engine_of(folder) as engine:
        running = await engine.start(launch(run_of(folder, sleeper)))
        caller = asyncio.create_task(running.stop(grace_s=5))
        await asyncio.sleep(0)
        caller.cancel()
        assert running._stopping is not None
        assert await running._stopping

        assert containers_below(folder) == []


async def test_start_that_nobody_waits_for_leaves_nothing(folder: Path, sleeper: str) -> None:
    async with engine_of(folder) as engine:
        for ticks in (1, 40):
            starting = asyncio.create_task(engine.start(launch(run_of(folder, sleeper), number=ticks)))
            await asyncio.wait({starting}, timeout=0.005 * ticks)
            starting.cancel()
            await asyncio.wait({starting})
            if not starting.cancelled():
                await (starting.result()).stop(grace_s=5)
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)

        assert containers_below(folder) == []


async def test_fault_104_predecessors_containers_are_swept_and_nobody_elses(folder: Path, sleeper: str) -> None:
    """A killed AirLab leaves its containers; the next start of the same installation removes them."""
    with short_folder() as elsewhere:
        (elsewhere / "m.gguf").write_bytes(b"GGUF")
        async with engine_of(folder) as killed, engine_of(elsewhere) as other, engine_of(folder) as successor:
            left = await killed.start(launch(run_of(folder, sleeper)))
            stays = await other.start(launch(run_of(elsewhere, sleeper)))
            await successor.sweep()

            assert containers_below(folder) == []
            assert [each["Id"] for each in containers_below(elsewhere)] == [stays.id]
            assert (await left.exited()).code != 0
            assert await stays.stop(grace_s=5)


async def test_fault_107_memory_that_is_used_up_is_told_from_other_ends(folder: Path) -> None:
    eats = "print('eats', flush=True)\nhoard = []\nwhile True: hoard.append(bytearray(b'x' * (1 << 20)))\n"
    with derived_image(eats, "eater") as image:
        async with engine_of(folder) as engine:
            running = await engine.start(launch(run_of(folder, image, memory=64 * MIB)))
            end = await running.exited()
            state = (await engine.daemon.inspect(running.id))["State"]
            assert await running.stop(grace_s=5)

    assert end.out_of_memory
    assert end.code == -9
    assert (state["OOMKilled"], state["ExitCode"]) == (True, 137)


async def test_fault_108_daemon_that_is_down_is_told_and_comes_back(folder: Path, sleeper: str) -> None:
    with way_to_docker(folder) as way:
        async with engine_of(folder, **way.environment) as engine:
            running = await engine.start(launch(run_of(folder, sleeper)))
            # The first process of a container hears no signal before it wants to: it would have to be killed.
            await until_it_says(running, "sleeps")
            way.vanish()
            with pytest.raises(EngineAwayError, match="Docker does not run here"):
                await engine.start(launch(run_of(folder, sleeper), number=2))
            assert not await running.stop(grace_s=0.1), "nobody can know whether it is gone"
            assert not running._exit.done(), "it is taken for running until Docker says otherwise"

            way.come_back()
            assert await running.stop(grace_s=5)
            assert (await running.exited()).code == -15
            assert containers_below(folder) == []


async def test_fault_108_daemon_that_hangs_is_given_up_in_time(
    folder: Path, sleeper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with way_to_docker(folder) as way:
        async with engine_of(folder, **way.environment) as engine:
            running = await engine.start(launch(run_of(folder, sleeper)))
            # Short only for what is to be given up: a busy Docker takes longer for a start that is to succeed.
            with monkeypatch.context() as hurried:
                hurried.setattr(daemon_module, "CALL_S", 0.5)
                way.hang()
                async with engine_of(folder, **way.environment) as other:
                    with pytest.raises(EngineAwayError, match=r"did not answer within 0\.5 s"):
                        await other.start(launch(run_of(folder, sleeper), number=2))

            way.come_back()
            assert await running.stop(grace_s=5)
            assert containers_below(folder) == []


async def test_fault_108_container_that_ended_while_docker_was_away_is_found_ended(folder: Path, sleeper: str) -> None:
    with way_to_docker(folder) as way:
        async with engine_of(folder, **way.environment) as engine:
            running = await engine.start(launch(run_of(folder, sleeper)))
            way.vanish()
            with docker_api() as api:
                api.kill(running.id, "SIGKILL")
                api.wait(running.id, timeout=BOUND_S)
            way.come_back()

            assert (await running.exited()).code == -9
            assert await running.stop(grace_s=5)


async def test_fault_109_image_that_is_missing(folder: Path) -> None:
    async with engine_of(folder) as engine:
        with pytest.raises(ImageMissingError, match=r"airlab-test-none:1 cannot be used.*AirLab pulls none"):
            await engine.start(launch(run_of(folder, "airlab-test-none:1")))
        with pytest.raises(ImageMissingError, match="no image of that digest"):
            await engine.start(launch(run_of(folder, f"{IMAGE.split(':')[0]}@sha256:{'0' * 64}")))

    assert containers_below(folder) == []
    assert list((folder / "c").glob("*")) == []


async def test_fault_109_gpu_that_docker_cannot_hand_on(folder: Path, sleeper: str) -> None:
    """A host without NVIDIA's runtime refuses at the start, when the container is made already."""
    require_no_gpu()
    async with engine_of(folder) as engine:
        run = replace(run_of(folder, sleeper, gpus="all"), gpu_layers=-1)
        chosen = replace(as_written(run), gpu_ids=("0",))
        for number, fit in enumerate((None, chosen)):
            with pytest.raises(GpuUnavailableError, match="NVIDIA Container Toolkit"):
                await engine.start(launch(run, number=number, fit=fit))

    assert containers_below(folder) == []
    assert list((folder / "c").glob("*")) == []


async def test_gpus_are_looked_for_in_an_image_that_is_here_and_nothing_is_left(folder: Path, sleeper: str) -> None:
    require_no_gpu()
    async with engine_of(folder) as engine:
        with pytest.raises(GpuUnavailableError):
            await engine.nvidia_smi(["airlab-test-none:1", sleeper])
        with pytest.raises(ImageMissingError, match="airlab-test-none:1"):
            await engine.nvidia_smi(["airlab-test-none:1"])
        # Of this one only: whoever tests beside us may look for GPUs, too.
        ours = installation_of(host_path(engine.folder, await engine.daemon.own_mounts()))[:8]
        with docker_api() as api:
            assert not [each for each in api.containers(all=True) if any(ours in name for name in each["Names"] or ())]


async def test_fault_109_name_that_somebody_else_has(folder: Path, sleeper: str) -> None:
    """The other container is not ours to remove."""
    async with engine_of(folder) as engine:
        order = await engine.order_for(launch(run_of(folder, sleeper)), instance="1-small")
        with docker_api() as api:
            other = api.create_container(sleeper, name=order.name)["Id"]
            try:
                with pytest.raises(EngineError, match="another container of that name"):
                    await engine.start(launch(run_of(folder, sleeper)))
                assert api.inspect_container(other)["State"]["Status"] == "created"
            finally:
                api.remove_container(other, force=True)

    assert containers_below(folder) == []


async def test_fault_109_processors_that_the_host_has_not(folder: Path, sleeper: str) -> None:
    async with engine_of(folder) as engine:
        with pytest.raises(EngineError, match="Requested CPUs are not available"):
            await engine.start(launch(run_of(folder, sleeper, cpuset="4000")))

    assert containers_below(folder) == []


async def test_fault_109_model_that_went_away(folder: Path, sleeper: str) -> None:
    """Docker would otherwise make a folder of that name on the host, as root."""
    run = run_of(folder, sleeper)
    (folder / "m.gguf").unlink()
    async with engine_of(folder) as engine:
        with pytest.raises(EngineError, match="bind source path does not exist"):
            await engine.start(launch(run))

    assert not (folder / "m.gguf").exists()
    assert containers_below(folder) == []


async def test_fault_109_container_with_a_hole_is_never_started(
    folder: Path, sleeper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine_of(folder) as engine:
        inspect = engine.daemon.inspect

        async def with_a_hole(container: str) -> dict[str, Any]:
            found = await inspect(container)
            assert found["State"]["Status"] == "created"
            return {**found, "HostConfig": {**found["HostConfig"], "ReadonlyRootfs": False}}

        monkeypatch.setattr(engine.daemon, "inspect", with_a_hole)
        with pytest.raises(EngineError, match=r"not walled in as asked \(ReadonlyRootfs\)"):
            await engine.start(launch(run_of(folder, sleeper)))

    assert containers_below(folder) == []


async def test_fault_111_nothing_forbidden_works_inside(folder: Path) -> None:
    """Tried from within, with another model's container beside it."""
    with derived_image(CANARY.read_text(), "canary") as image:
        async with engine_of(folder) as engine:
            neighbour = await engine.start(launch(run_of(folder, image), "other", number=1))
            running = await engine.start(launch(run_of(folder, image), number=2))
            lines = [json.loads(line) for line in (await running.exited()).last_lines]
            assert await running.stop(grace_s=5)
            assert await neighbour.stop(grace_s=5)

    *tried, (_, effective, bounding, no_new, seccomp, uid) = lines
    assert len(tried) == 22
    worked = [name for name, allowed, error in tried if error is None and not allowed]
    refused = [(name, error) for name, allowed, error in tried if error is not None and allowed]
    assert (worked, refused) == ([], [])
    assert int(effective, 16) == int(bounding, 16) == 0
    assert (no_new, seccomp) == ("1", "2")
    assert uid != 0


async def test_paths_of_our_own_container_are_found_on_the_host(
    folder: Path, sleeper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service or a launcher in a container names its own paths; the daemon takes those of the host."""
    with docker_api() as api:
        binds = [f"{folder}:/config:ro", "/models"]
        config = api.create_host_config(binds=binds[:1], network_mode="none")
        ours = api.create_container(sleeper, volumes=binds[1:], host_config=config)["Id"]
        try:
            line = f"1 2 0:3 /containers/{ours}/hostname /etc/hostname rw - ext4 /dev/vda rw\n"
            monkeypatch.setattr(daemon_module, "_mountinfo", lambda: line)
            async with engine_of(folder) as engine:
                mounts = await engine.daemon.own_mounts()
        finally:
            api.remove_container(ours, force=True, v=True)

    assert host_path(Path("/config/models/a.gguf"), mounts) == f"{folder}/models/a.gguf"
    assert host_path(Path("/models/a.gguf"), mounts).endswith("/_data/a.gguf")
    with pytest.raises(EngineError, match="in no mount"):
        host_path(Path("/elsewhere/a.gguf"), mounts)


async def test_container_of_an_image_that_compose_built_is_none_of_its_services(folder: Path, sleeper: str) -> None:
    """Compose would remove what it takes for an old container of a service."""
    async with engine_of(folder) as engine:
        running = await engine.start(launch(run_of(folder, sleeper)))
        labels = (await engine.daemon.inspect(running.id))["Config"]["Labels"]
        assert await running.stop(grace_s=5)

    assert labels["com.docker.compose.project"] == labels["com.docker.compose.service"] == ""
