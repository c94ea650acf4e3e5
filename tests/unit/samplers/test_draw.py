"""What is drawn is drawn from the warped distribution."""

import numpy as np
import pytest
import torch

from gkd_dist.errors import EngineError
from gkd_dist.samplers.draw import Draw
from gkd_dist.samplers.seeds import sample_seed
from gkd_dist.types import SampleId, SamplingParams

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, -3.0])
NUM_DRAWS = 4000


def draw(params: SamplingParams) -> np.ndarray:
    """Frequencies over NUM_DRAWS rows, each with a seed of its own."""
    ids, _ = Draw(params, list(range(NUM_DRAWS)))(LOGITS.expand(NUM_DRAWS, -1))
    return np.bincount(ids.numpy(), minlength=LOGITS.numel()) / NUM_DRAWS


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_frequencies_are_the_tempered_softmax(temperature: float) -> None:
    """Within 4 standard deviations of a multinomial frequency."""
    expected = torch.softmax(LOGITS / temperature, dim=-1).numpy()
    deviation = np.sqrt(expected * (1 - expected) / NUM_DRAWS)
    found = draw(SamplingParams(max_new_tokens=1, temperature=temperature))
    assert (np.abs(found - expected) < 4 * deviation + 1e-9).all()


def test_top_k_and_top_p_remove_the_tail() -> None:
    assert (draw(SamplingParams(max_new_tokens=1, top_k=2))[2:] == 0).all()
    assert (draw(SamplingParams(max_new_tokens=1, top_p=0.5))[1:] == 0).all()
    assert (draw(SamplingParams(max_new_tokens=1, min_p=0.3))[2:] == 0).all()


def test_temperature_zero_is_the_argmax() -> None:
    assert draw(SamplingParams(max_new_tokens=1, temperature=0))[0] == 1.0


def test_min_p_cuts_before_top_p_as_in_vllm() -> None:
    """Of (0.5, 0.3, 0.1, 0.1), min_p leaves 0.625 and 0.375, of which the first alone reaches top_p."""
    scores = torch.tensor([0.5, 0.3, 0.1, 0.1]).log().expand(200, -1)
    ids, log_probs = Draw(SamplingParams(max_new_tokens=1, top_p=0.62, min_p=0.3), list(range(200)))(scores)
    assert (ids == 0).all() and (log_probs == 0).all()


def test_greedy_log_probs_are_of_the_whole_distribution_as_in_vllm() -> None:
    params = SamplingParams(max_new_tokens=1, temperature=0, top_k=1, top_p=0.5, min_p=0.5)
    _, log_probs = Draw(params, [0])(LOGITS[None])
    torch.testing.assert_close(log_probs, torch.log_softmax(LOGITS, dim=-1)[:1])


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None], ids=str)
def test_scores_that_are_not_finite_are_told(bad: float | None, temperature: float) -> None:
    scores = LOGITS.repeat(2, 1)
    scores[1] = scores[1].index_fill(0, torch.tensor([2]), bad) if bad is not None else -torch.inf
    with pytest.raises(EngineError, match="not finite"):
        Draw(SamplingParams(max_new_tokens=1, temperature=temperature), [0, 1])(scores)


def test_log_probs_are_those_of_what_was_chosen() -> None:
    params = SamplingParams(max_new_tokens=2, temperature=0.7)
    draw_next = Draw(params, [0, 1, 2])
    expected = torch.log_softmax(LOGITS / 0.7, dim=-1)
    for _ in range(2):
        ids, log_probs = draw_next(LOGITS.expand(3, -1))
        torch.testing.assert_close(log_probs, expected[ids])


def test_rows_that_go_on_draw_what_they_draw_among_the_others() -> None:
    params = SamplingParams(max_new_tokens=2)
    scores = torch.zeros(4, 1000)
    everyone, some = Draw(params, [0, 1, 2, 3]), Draw(params, [0, 1, 2, 3])
    everyone(scores)
    some(scores)
    some.keep(torch.tensor([1, 3]))
    assert torch.equal(some(scores[:2])[0], everyone(scores)[0][[1, 3]])


def test_the_global_random_state_is_untouched() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    draw(SamplingParams(max_new_tokens=1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_seeds_differ_by_prompt_repeat_and_run_seed_alone() -> None:
    ids = [SampleId("a", prompt, repeat) for prompt in range(50) for repeat in range(3)]
    assert len({sample_seed(0, sample_id) for sample_id in ids}) == len(ids)
    assert sample_seed(0, SampleId("a", 1)) == sample_seed(0, SampleId("b", 1))
    assert sample_seed(0, SampleId("a", 1)) != sample_seed(1, SampleId("a", 1))


def test_the_tail_of_a_large_vocabulary_is_drawn_as_often_as_it_should() -> None:
    """Half of the probability lies on 50,000 ids of 1e-5 each: within 4 standard deviations, in each tenth of them."""
    tail = torch.full((50_000,), 1e-5)
    logits = torch.cat([torch.tensor([0.5]), tail]).log()
    num_rows = 2000
    ids, _ = Draw(SamplingParams(max_new_tokens=1), list(range(num_rows)))(logits.expand(num_rows, -1))
    tenths = np.bincount((ids[ids > 0].numpy() - 1) // 5000, minlength=10) / num_rows
    assert (np.abs(tenths - 0.05) < 4 * np.sqrt(0.05 * 0.95 / num_rows)).all()


def test_the_draw_is_the_inverse_of_the_distribution_function() -> None:
    probs = torch.softmax(LOGITS.double(), dim=-1).numpy()
    ids, _ = Draw(SamplingParams(max_new_tokens=1), list(range(200)))(LOGITS.expand(200, -1))
    for seed, drawn in enumerate(ids.tolist()):
        uniform = torch.rand(1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).item()
        assert probs[:drawn].sum() - 1e-6 <= uniform < probs[: drawn + 1].sum() + 1e-6


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-53])
def test_ids_without_probability_are_not_drawn_at_either_end(uniform: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([uniform], dtype=torch.float64))
    for seed in range(20):
        logits = torch.randn(1, 1000, generator=torch.Generator().manual_seed(seed)) * 5
        logits[:, [0, 1, 500, 998, 999]] = -torch.inf
        ids, log_probs = Draw(SamplingParams(max_new_tokens=1), [0])(logits)
        assert ids == (2 if uniform == 0 else 997)
        assert torch.isfinite(log_probs).all()


def test_padding_is_never_drawn() -> None:
    params = SamplingParams(max_new_tokens=1, top_k=4)
    logits = torch.tensor([[0.0, 1.0, 2.0, 9.0, 9.0]])
    ids, log_probs = Draw(params, [7], num_ids=3)(logits)
    assert ids < 3
    torch.testing.assert_close(log_probs, torch.log_softmax(logits[0, :3], dim=-1)[ids])
