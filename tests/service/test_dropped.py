"""Fine-tunes dropped into models/custom/ of a running AirLab: they appear, serve, and go with their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.conftest import MakeLab
from tests.support.fake import starts_of
from tests.support.gguf import minimal_adapter, minimal_gguf
from tests.support.service import CHAT, HELLO, EngineKind, Lab, Service, wait_until

NAME_OF_THE_EMBEDDED_MODEL = "Smollm2 135M 8k Lc100K Mix1 Ep2"
WIDTH = 576


def drop(lab: Lab, name: str, content: bytes) -> Path:
    """Put a file into models/custom/ as one should: whole."""
    part = lab.folder / "models" / "custom" / f"{name}.part"
    part.write_bytes(content)
    return part.rename(part.with_suffix(""))


@pytest.fixture
def make_lab(make_lab: MakeLab) -> MakeLab:
    """Labs with a folder for fine-tunes."""

    def make(*args: Any, **more: Any) -> Lab:
        lab = make_lab(*args, **more)
        (lab.folder / "models" / "custom").mkdir()
        return lab

    return make


def lora_bytes(folder: Path) -> bytes:
    """An adapter of rank 1 for the embedded model, as llama.cpp's converter writes it; it changes next to nothing."""
    file = folder / "lora.tmp"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 1.0)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, NAME_OF_THE_EMBEDDED_MODEL)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.full((1, WIDTH), 1e-6, np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", np.full((WIDTH, 1), 1e-6, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file.read_bytes()


def entry(service: Service, key: str) -> dict[str, Any] | None:
    """The model's entry in /models, if there is one."""
    models = service.http.get("/models").raise_for_status().json()["models"]
    return next((model for model in models if model["key"] == key), None)


def appeared(service: Service, key: str) -> dict[str, Any]:
    """The entry of a model that comes by itself."""
    return wait_until(lambda: entry(service, key), f"{key} has appeared")


def test_model_that_is_dropped_appears_serves_and_goes_with_its_file(make_lab: MakeLab) -> None:
    lab = make_lab()
    with lab.serve() as service:
        file = drop(lab, "mine.gguf", minimal_gguf(general__file_type=15, llama__context_length=1024))
        mine = appeared(service, "mine")

        assert (mine["source"], mine["is_finetuned"], mine["exists"]) == ("local_finetuned", True, True)
        assert (mine["architecture"], mine["quantisation"], mine["context_length"]) == ("llama", "Q4_K_M", 1024)
        assert service.chat(model="mine").status_code == 200
        file.unlink()
        wait_until(lambda: entry(service, "mine") is None, "mine is gone")
        assert service.chat(model="mine").status_code == 404
        assert service.chat().status_code == 200


def test_sidecar_that_is_mended_makes_its_model_usable(make_lab: MakeLab) -> None:
    """A broken one is answered with its lines, and harms nothing else."""
    lab = make_lab()
    drop(lab, "mine.yaml", b"contxt_length: 1024\n")
    file = drop(lab, "mine.gguf", minimal_gguf())
    with lab.serve() as service:
        refused = service.chat(model="mine")

        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
        assert "custom/mine.yaml:1:1: contxt_length: no such setting" in refused.json()["error"]["message"]
        assert "did you mean `context_length`?" in appeared(service, "mine")["problem"]
        assert starts_of(file) == 0
        assert service.chat().status_code == 200
        drop(lab, "mine.yaml", b"context_length: 1024\ndescription: Mended\n")
        wait_until(lambda: appeared(service, "mine")["description"] == "Mended", "the sidecar is read")
        assert service.chat(model="mine").status_code == 200


def test_broken_model_is_refused_with_what_is_wrong_and_no_engine_is_started(make_lab: MakeLab) -> None:
    """llama-server would take its time, and say less."""
    bodies: dict[str, Any] = {
        CHAT: {"messages": HELLO},
        "/chat": {"messages": HELLO},
        "/model/switch": {"model_key": "small"},
        "/models/small/load": None,
    }
    lab = make_lab(models={"small": {}, "other": {}})
    lab.fault("small")
    lab.weights("small").write_bytes(minimal_gguf()[:-40])
    with lab.serve() as service:
        for route, body in bodies.items():
            refused = service.http.post(route, json=body)
            assert refused.status_code == 503, refused.text
            assert "the files of small cannot be used: small.gguf has " in refused.json()["error"]["message"]
            assert "copy or download it again" in refused.json()["error"]["message"]
        health = service.http.get("/health").json()
        assert health["status"] == "degraded"
        assert "small cannot start: small.gguf" in health["message"]
        assert starts_of(lab.weights("small")) == 0
        assert service.chat(model="other").status_code == 200


def test_adapter_without_a_base_says_what_to_write(make_lab: MakeLab) -> None:
    lab = make_lab()
    drop(lab, "letters.gguf", minimal_adapter("Something else"))
    with lab.serve() as service:
        said = service.chat(model="letters").json()["error"]["message"]

    assert "write `base_model: KEY` into letters.yaml beside it" in said


def test_dropped_adapter_is_laid_over_its_base_by_the_engine(make_lab: MakeLab, engine_kind: EngineKind) -> None:
    lab = make_lab(engine_kind)
    content = lora_bytes(lab.folder)
    with lab.serve() as service:
        file = drop(lab, "letters.gguf", content)
        letters = appeared(service, "letters")

        assert (letters["problem"], letters["base_model"], letters["quantisation"]) == (None, "small", "Q4_1")
        answer = service.chat(model="letters")
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"]
        laid = service.engine("letters").ask("/lora-adapters")
        assert [(adapter["path"], adapter["scale"]) for adapter in laid] == [(str(file), 1.0)]
