"""The parts of `benchmarks/peers` that need no peer: kept blocks, arithmetic, the recipe, and what a command took."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gkd_dist.config.load import load_run_config

PEERS = Path(__file__).parents[3] / "benchmarks" / "peers"


@pytest.fixture(scope="module", autouse=True)
def _scripts_are_found() -> Iterator[None]:
    """As for a script: its own folder comes first."""
    sys.path.insert(0, str(PEERS))
    yield
    sys.path.remove(str(PEERS))
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "").parent == PEERS:
            del sys.modules[name]


def step(seconds: float, tokens: int, **more: Any) -> dict[str, Any]:
    return {"step_s": seconds, "trained_tokens": tokens, "loss": 1.0, "parts_s": {}} | more


def held_out(*nats: float) -> dict[str, Any]:
    """On both texts so many nats per token in the mean, of rows that differ by far more than students do."""
    kinds = {"on_policy": "student_text", "reference": "reference_text"}
    figures = {f"{place}/forward_kl_nats": {"value": each} for place, each in zip(kinds.values(), nats, strict=True)}
    rows = {kind: [[10 * (each + more), 10] for more in (-0.2, 0, 0.2)] for kind, each in zip(kinds, nats, strict=True)}
    return {"figures": figures, "rows": rows}


def test_a_block_is_done_once_and_kept(tmp_path: Path) -> None:
    from blocks import Blocks

    done: list[str] = []

    def block() -> dict[str, int]:
        done.append("first")
        return {"value": 3}

    path = tmp_path / "kept.json"
    for _ in range(2):
        assert Blocks(path, {"steps": 2}, {}).do("first", block) == {"value": 3}
    assert done == ["first"]


def test_a_block_that_fails_is_not_kept(tmp_path: Path) -> None:
    from blocks import Blocks

    def fails() -> None:
        raise KeyError("interrupted")

    path = tmp_path / "kept.json"
    blocks = Blocks(path, {}, {})
    blocks.do("first", lambda: 1)
    with pytest.raises(KeyError):
        blocks.do("second", fails)
    assert "first" in Blocks(path, {}, {})
    assert "second" not in Blocks(path, {}, {})


def test_blocks_of_other_settings_are_refused(tmp_path: Path) -> None:
    from blocks import Blocks

    path = tmp_path / "kept.json"
    Blocks(path, {"steps": 2, "rows": 4}, {}).do("first", lambda: 1)
    with pytest.raises(SystemExit, match=r"other settings \(steps\)"):
        Blocks(path, {"steps": 3, "rows": 4}, {})


def test_the_steady_state_leaves_the_warm_up_out() -> None:
    from work import steady

    steps = [step(50, 1), step(2, 100, parts_s={"learn": 1.5}), step(3, 150, parts_s={"learn": 1.0, "sample": 0.5})]
    assert steady(steps, 1) == {
        "steps": 2,
        "trained_tokens": 250,
        "mean_step_s": 2.5,
        "trained_tokens_per_s": 50.0,
        "mean_parts_s": {"learn": 1.25, "sample": 0.25, "other": 1.0},
    }
    with pytest.raises(ValueError, match="no more than the 3 of the warm-up"):
        steady(steps, 3)


def test_ratios_are_taken_within_a_turn_and_bars_judged_by_their_median() -> None:
    from summary import bars, summarise

    def block(*seconds: float) -> dict[str, Any]:
        return {"steps": [step(each, 100) for each in seconds], "whole_s": 100.0, "peak_pss_mib": 7}

    blocks = {
        "float32/1/gkd_dist": block(9, 10, 10, 1),
        "float32/1/gkd": block(9, 20, 20, 1),
        "float32/2/gkd_dist": block(9, 20, 20, 1),
        "float32/2/gkd": block(9, 80, 80, 1),
        "held-out/before": held_out(1.0, 1.0),
        "held-out/float32/gkd_dist": held_out(0.5, 0.31),
        "held-out/float32/gkd": held_out(0.3, 0.31),
    }
    results = summarise({"blocks": blocks, "settings": {"warm_up": 1}}, "gkd_dist")["float32"]
    assert results["ratio"]["gkd"] == {"median": 3.0, "by_turn": [2.0, 4.0]}
    assert results["sides"]["gkd"]["trained_tokens_per_s"] == 2.0  # 400 tokens in 200 s
    assert results["whole_process_ratio"]["gkd"]["median"] == 1.0
    assert results["held_out_nats"]["before"]["on_policy"]["value"] == 1.0
    assert results["held_out_over"]["gkd"]["on_policy"] == {"value": 0.2, "low": 0.2, "high": 0.2}
    assert [met for _, met in bars({"float32": results})] == [True, False, True]


@pytest.mark.parametrize(("ratio", "reaches"), [(3.5, [True]), (2.6, [False])])
def test_a_goal_beyond_a_bar_is_no_bar(ratio: float, reaches: list[bool]) -> None:
    from summary import bars, goals

    results = {dtype: {"ratio": {"gkd": {"median": ratio}}, "held_out_over": {}} for dtype in ("bfloat16", "float32")}
    assert [met for _, met in bars(results)] == [True, True]
    assert [met for _, met in goals(results)] == reaches
    assert goals({"float32": results["float32"]}) == []


def test_equal_time_pays_for_the_slow_first_steps_and_says_what_was_used() -> None:
    """Ours: 4 s, then 2 s a step; a trainer that takes 12 s gives the first and four more, not six of 2 s."""
    from equal_time import in_the_time_of, seconds, steps_in

    ours = [step(4, 1), step(2, 1), step(2, 1)]
    given_s = {"gkd": seconds([step(9, 1), step(3, 1)]), "distillation": 0.5}
    counts = steps_in(given_s, ours, warm_up=1)
    assert counts == {"gkd": 5, "distillation": 1}
    long = [step(4, 1), *[step(2, 1)] * 4]
    assert in_the_time_of(given_s, counts, long) == {
        "gkd": {"steps": 5, "given_s": 12, "used_s": 12},
        "distillation": {"steps": 1, "given_s": 0.5, "used_s": 4},
    }


def test_what_one_side_alone_has_done_is_left_out_of_the_tiny_summary() -> None:
    from tiny import bars, summarise

    block = {"steps": [step(1, 64, student_sequences=8)] * 3}
    other = {"steps": [step(2, 64, parts_s={"generate": 1.0})] * 3}
    blocks = {"32000/1/1/gkd_dist": block, "32000/1/1/gkd": other, "600/0/1/gkd_dist": block, "600/1/1/gkd": other}
    results = summarise({"blocks": blocks, "settings": {"warm_up": 2}})
    assert list(results) == ["32000/1"]
    assert [met for _, met in bars(results)] == [True]


def test_a_row_that_would_be_dropped_is_refused() -> None:
    from material import check_that_none_is_dropped
    from work import Row

    rows = [Row(text, "b", text, [number], [2]) for number, text in enumerate("abc")]
    check_that_none_is_dropped(rows)
    with pytest.raises(SystemExit, match="number 4 has the prompt of the first"):
        check_that_none_is_dropped([*rows, rows[0]])


@pytest.mark.parametrize("name", ["tiny", "pretrained"])
def test_too_few_steps_are_refused_before_the_first_block(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(PEERS / f"{name}.py"), "--steps", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "--steps above" in done.stderr


def test_steps_of_either_kind_weigh_one_half() -> None:
    """Three steps on the student's text and one on references: 64 tokens in 2 s, 32 in 1 s."""
    from tiny import rate

    own, fixed = step(2, 64, student_sequences=8), step(1, 32, student_sequences=0)
    assert rate([own, own, own, fixed]) == pytest.approx((64 + 32) / (2 + 1))
    peer_own, peer_fixed = step(2, 64, parts_s={"generate": 1.0}), step(1, 32)
    assert rate([peer_own, peer_fixed, peer_fixed]) == pytest.approx(32)


def test_the_command_is_a_valid_configuration(tmp_path: Path) -> None:
    import gkd_side
    from work import Row, Work, save_rows

    rows = save_rows(tmp_path / "rows.jsonl", [Row("a", "b", "a", [1], [2])])
    work = Work(student="s", teacher="t", rows=str(rows), max_steps=3, bf16=True, save_steps=2)
    *_, recipe = gkd_side.command(work, tmp_path / "run")[:5]
    overrides = gkd_side.command(work, tmp_path / "run", gkd_side.LOCAL)[5:]
    config = load_run_config(recipe, overrides)
    assert (config.learner.max_steps, config.learner.bf16, config.sampler.dtype) == (3, True, "bfloat16")
    assert config.objective.reduction == "token_mean"
    assert (config.checkpoint.save_steps, config.checkpoint.journal) == (0, False)
    assert config.cluster.mode == "local"
    assert not config.data.shuffle


def test_memory_is_that_of_all_descendants() -> None:
    from measuring import proportional_bytes

    held = 64 << 20
    child = f"b = bytearray(b'x' * {held}); print('ready', flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        measured = proportional_bytes(process.pid)
        process.communicate(b"\n")
    assert measured >= held
    assert proportional_bytes(process.pid) == 0


def test_a_command_that_fails_shows_the_end_of_what_it_printed(tmp_path: Path) -> None:
    from measuring import CommandError, measure

    assert measure([sys.executable, "-c", "pass"], tmp_path / "log.txt")["whole_s"] > 0
    with pytest.raises(CommandError, match=r"ended with 3.*\n.*no luck"):
        measure([sys.executable, "-c", "print('no luck'); raise SystemExit(3)"], tmp_path / "log.txt")


def test_the_batch_of_the_same_loss_through_the_learner(tmp_path: Path) -> None:
    """Ours, as `same_loss.py` computes it, against a float64 reference of the token mean."""
    import torch
    from same_loss import batch, of_gkd_dist
    from tiny_pair import save_pair
    from transformers import AutoModelForCausalLM

    pair = save_pair(tmp_path, 600)
    sequences = batch()
    found = of_gkd_dist(pair.student, pair.teacher, sequences)["forward_kl"]
    models = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64) for path in (pair.teacher, pair.student)]
    nats = []
    for each in sequences:
        ids = torch.tensor([each["prompt_ids"] + each["completion_ids"]])
        with torch.no_grad():
            teacher, student = (
                torch.log_softmax(model(ids).logits[0, len(each["prompt_ids"]) - 1 : -1], -1) for model in models
            )
        nats.append((teacher.exp() * (teacher - student)).sum(-1).numpy())
    assert found["token_mean"]["loss"] == pytest.approx(np.concatenate(nats).mean(), rel=1e-4)
    assert found["sequence_mean"]["loss"] == pytest.approx(np.mean([row.mean() for row in nats]), rel=1e-4)


@pytest.mark.parametrize("name", ["same_loss", "tiny", "pretrained"])
def test_without_the_peers_environment_a_script_says_what_makes_it(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(PEERS / f"{name}.py"), "--trl-python", str(tmp_path / "python")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "`make peers` makes it" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
