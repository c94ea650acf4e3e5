"""How much a chunk of the loss really holds, from the allocator's own record, beside what its budget counts."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from gkd_dist.divergences import (
    DenseTerm,
    LikelihoodTerm,
    MixedTeacher,
    Readout,
    SampledTerm,
    TopKTerm,
    chunked_loss,
    full_teacher,
    hidden_teacher,
    make_divergence,
    mixed_teacher,
    topk_teacher,
)
from gkd_dist.divergences import budget as tokens_of

N, V, H = 128, 40_000, 4
TILE = N * V * 4


def peak_bytes(run):
    """Most that was allocated at a time, over what there was before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def terms():
    weights, ids = torch.full((N,), 1 / N), torch.arange(N)
    jsd = make_divergence("jsd")

    def hidden(seed):
        return hidden_teacher(random(N, H, seed=seed), Readout(random(V, H, seed=seed + 1)))

    mixed = mixed_teacher([MixedTeacher(hidden(seed)) for seed in (2, 4, 6)], "arithmetic")
    agreed = mixed_teacher([MixedTeacher(hidden(seed)) for seed in (2, 4)], "geometric")
    top = torch.log_softmax(random(N, V, seed=8), 1).topk(8)
    return {
        "hidden": DenseTerm(hidden(2), jsd, weights),
        "full": DenseTerm(full_teacher(random(N, V, seed=3)), jsd, weights),
        "mixture": DenseTerm(mixed, jsd, weights),
        "geometric": DenseTerm(agreed, jsd, weights),
        "topk": TopKTerm(topk_teacher(top.indices, top.values, num_ids=V), jsd, weights),
        "sampled": SampledTerm(ids, torch.zeros(N), weights),
        "likelihood": LikelihoodTerm(ids, weights),
    }


CASES = [
    ("hidden", 2),
    ("full", 2),
    ("mixture", 3),
    ("geometric", 3),
    ("topk", 1),
    ("sampled", 1),
    ("likelihood", 1),
    ("hidden likelihood", 3),
    ("topk likelihood", 2),
    ("hidden likelihood topk", 3),
    ("likelihood hidden likelihood", 4),
]


@pytest.mark.parametrize(("names", "tiles"), CASES)
@pytest.mark.parametrize("soft_cap", [None, 30.0])
def test_a_chunk_holds_the_tiles_that_its_budget_counts(names, tiles, soft_cap, monkeypatch):
    counted = []

    def whole(*_, num_tiles, **__):
        counted.append(num_tiles)
        return N

    monkeypatch.setattr(tokens_of, "chunk_tokens", whole)
    chosen, made = names.split(), terms()
    hidden, head = random(N, H).requires_grad_(), random(V, H, seed=1).requires_grad_()

    def run():
        chunked_loss(hidden, Readout(head, soft_cap=soft_cap), [made[name] for name in chosen])

    run()
    peak = peak_bytes(run)
    # The gradient of the head and blocks of rows come on top.
    assert peak <= (counted[0] + 0.45) * TILE
    if soft_cap is None:
        assert set(counted) == {tiles}
        assert "full" in chosen or peak >= tiles * TILE  # full log-probs are there anyway
