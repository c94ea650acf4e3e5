"""Tokens per chunk from a budget of bytes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.divergences import Readout, chunked_divergence, make_divergence
from gkd_dist.divergences.budget import DEFAULT_BYTES, GRANULE, MAX_TOKENS, MIN_TOKENS, chunk_tokens


@given(
    num_ids=st.integers(2, 300_000),
    memory_bytes=st.integers(1, 1 << 36),
    num_tiles=st.integers(2, 4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    device=st.sampled_from(["cpu", "cuda"]),
)
def test_the_tiles_fit_into_the_budget_unless_the_minimum_does_not(num_ids, memory_bytes, num_tiles, dtype, device):
    tokens = chunk_tokens(num_ids, dtype, device, num_tiles=num_tiles, memory_bytes=memory_bytes)
    assert MIN_TOKENS <= tokens <= MAX_TOKENS[device] and tokens % GRANULE == 0
    assert tokens == MIN_TOKENS or num_tiles * tokens * num_ids * dtype.itemsize <= memory_bytes


@pytest.mark.parametrize(("device", "least"), [("cpu", 256), ("cuda", 2048)])
def test_a_large_vocabulary_gets_long_chunks_by_default(device, least):
    assert chunk_tokens(151_936, torch.float32, device, num_tiles=2) >= least


def test_a_larger_budget_never_shortens_the_chunk():
    counts = [chunk_tokens(50_000, torch.float32, "cpu", num_tiles=2, memory_bytes=1 << bits) for bits in range(20, 34)]
    assert counts == sorted(counts) and counts[0] < counts[-1]


def test_a_budget_must_be_positive():
    with pytest.raises(ValueError, match="memory_bytes"):
        chunk_tokens(100, torch.float32, "cpu", num_tiles=2, memory_bytes=0)


def test_the_loss_keeps_to_its_budget():
    num_ids, heights = 512, []

    def teacher(span):
        heights.append(span.stop - span.start)
        return torch.zeros(span.stop - span.start, num_ids)

    arguments = (torch.ones(300, 4), Readout(torch.ones(num_ids, 4)), teacher, torch.ones(300), make_divergence("jsd"))
    chunked_divergence(*arguments, memory_bytes=2 * 64 * num_ids * 4)
    assert heights == [64, 64, 64, 64, 44]
    heights.clear()
    chunked_divergence(*arguments)
    assert heights == [300]
    assert DEFAULT_BYTES["cpu"] >= 2 * 300 * num_ids * 4


def test_a_soft_cap_costs_one_more_tile():
    heights = []

    def teacher(span):
        heights.append(span.stop - span.start)
        return torch.zeros(span.stop - span.start, 512)

    readout = Readout(torch.ones(512, 4), soft_cap=3.0)
    chunked_divergence(
        torch.ones(96, 4), readout, teacher, torch.ones(96), make_divergence("jsd"), memory_bytes=3 * 32 * 512 * 4
    )
    assert heights == [32, 32, 32]
