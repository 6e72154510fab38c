"""``airlab bench`` on an engine that really generates: measured, kept, compared, drawn."""

from __future__ import annotations

import json

from tests.conftest import MakeLab

QUICK = ("--prompts", "32,200", "--tokens", "8", "--repeat", "1")


def test_runs_are_measured_kept_compared_and_drawn(make_lab: MakeLab) -> None:
    lab = make_lab("embedded", profile={"parallel": 2})
    with lab.serve() as service:
        done = lab.run(
            "bench", "small", *QUICK, "--at-once", "1,2,4", "--note", "first", "--json", "--url", service.url
        )
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout)
        assert [(figure["model"], figure["at_once"], figure["run"]) for figure in figures] == [
            *([("small", 1, 1)] * 2),
            *([("small", 2, 1)] * 2),
        ]
        for figure in figures:
            assert figure["quantisation"] == "Q4_1"
            assert figure["memory_bytes"] > 50_000_000
            assert figure["load_s"] > 0, "it was not loaded before"
            assert min(figure[name] for name in ("ttft_s", "prompt_per_s", "generate_per_s", "total_per_s")) > 0
        short, long = figures[:2]
        assert 16 <= short["prompt_tokens"] <= 48
        assert 180 <= long["prompt_tokens"] <= 220
        assert "serves 2 at once" in done.stderr

        drawing = lab.folder / "plot.svg"
        again = lab.run("bench", *QUICK, "--at-once", "1", "--svg", str(drawing), "--url", service.url)
        assert again.returncode == 0, again.stderr
        lines = again.stdout.splitlines()
        assert lines[0].startswith("RUN")
        assert [line.split()[0] for line in lines[1:]] == ["1"] * 4 + ["2"] * 2
        assert drawing.read_text().startswith("<svg")
    shown = lab.run("bench", "--show", "--runs", "1", "--json")
    assert [figure["load_s"] for figure in json.loads(shown.stdout)] == [None, None], "it was loaded already"


def test_prompt_that_does_not_fit_is_left_out_with_a_word(make_lab: MakeLab) -> None:
    lab = make_lab("embedded")
    with lab.serve() as service:
        done = lab.run("bench", "--prompts", "5000", "--at-once", "1", "--tokens", "8", "--url", service.url)
        assert (done.returncode, done.stdout) == (1, "")
        assert "nothing was measured" in done.stderr
        assert "has a context of 1024" in done.stderr
        unknown = lab.run("bench", "nobody", "--url", service.url)
        assert unknown.returncode == 1
        assert "no model 'nobody'" in unknown.stderr


def test_bench_by_itself_starts_an_airlab_and_leaves_nothing(make_lab: MakeLab) -> None:
    lab = make_lab("embedded")
    done = lab.run("bench", "--alone", "--prompts", "32", "--at-once", "1", "--tokens", "8", "--repeat", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 1
    assert not lab.engine_processes()
    assert not list(lab.folder.glob("airlab-bench-*"))


def test_bench_of_all_models_leaves_those_out_that_do_not_chat(make_lab: MakeLab) -> None:
    lab = make_lab("embedded", models={"small": {}, "vectors": {"kind": ["embedding"]}})
    short = ("--prompts", "32", "--at-once", "1", "--tokens", "8", "--repeat", "1", "--json")
    with lab.serve() as service:
        done = lab.run("bench", *short, "--url", service.url)
        named = lab.run("bench", "vectors", *short, "--url", service.url)
    assert done.returncode == 0, done.stderr
    assert [figure["model"] for figure in json.loads(done.stdout)] == ["small"]
    assert named.returncode == 1
    assert "vectors does not serve chat" in named.stderr
    own = lab.run("bench", "--contexts", "512", *short)
    assert own.returncode == 0, own.stderr
    assert "vectors" not in own.stderr
