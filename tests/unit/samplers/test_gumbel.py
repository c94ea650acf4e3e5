"""Sampling by Gumbel noise is sampling from the warped distribution."""

import numpy as np
import pytest
import torch

from gkd_dist.samplers.gumbel import GumbelProcessor
from gkd_dist.samplers.seeds import sample_seed
from gkd_dist.types import SampleId, SamplingParams

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, -3.0])
NUM_DRAWS = 4000


def draw(params: SamplingParams) -> np.ndarray:
    """Frequencies over NUM_DRAWS rows, each with a seed of its own."""
    processor = GumbelProcessor(params, list(range(NUM_DRAWS)))
    scores = processor(torch.zeros(NUM_DRAWS, 1, dtype=torch.long), LOGITS.expand(NUM_DRAWS, -1))
    return np.bincount(scores.argmax(dim=-1).numpy(), minlength=LOGITS.numel()) / NUM_DRAWS


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


def test_log_probs_are_those_of_what_was_chosen() -> None:
    params = SamplingParams(max_new_tokens=2, temperature=0.7)
    processor = GumbelProcessor(params, [0, 1, 2])
    sequences = torch.zeros(3, 1, dtype=torch.long)
    for _ in range(2):
        scores = processor(sequences, LOGITS.expand(3, -1))
        sequences = torch.cat([sequences, scores.argmax(dim=-1, keepdim=True)], dim=1)
    log_probs = torch.log_softmax(LOGITS / 0.7, dim=-1)
    torch.testing.assert_close(processor.chosen_log_probs(sequences), log_probs[sequences[:, 1:]])


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


def test_no_two_ids_of_a_large_vocabulary_share_their_noise() -> None:
    """Uniforms of float32 lie on 2**24 points: some 70 pairs of 49,152 ids would, and none beyond 16.6 nats."""
    num_ids = 49_152
    processor = GumbelProcessor(SamplingParams(max_new_tokens=1), [11])
    scores = processor(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, num_ids))
    assert scores.unique().numel() == num_ids


def test_padding_gets_no_probability() -> None:
    params = SamplingParams(max_new_tokens=1, top_k=4)
    processor = GumbelProcessor(params, [7], num_ids=3)
    logits = torch.tensor([[0.0, 1.0, 2.0, 9.0, 9.0]])
    scores = processor(torch.zeros(1, 1, dtype=torch.long), logits)
    assert torch.isneginf(scores[0, 3:]).all()
    log_probs = processor.chosen_log_probs(torch.tensor([[0, 1]]))
    torch.testing.assert_close(log_probs[0], torch.log_softmax(logits[0, :3], dim=-1)[1:2])
    assert logits[0, 3] == 9.0
