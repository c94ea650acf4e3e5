"""From configuration to divergence."""

import pickle

import pytest
import torch

from gkd_dist.divergences import (
    forward_kl,
    jsd,
    make_divergence,
    reverse_kl,
    skewed_forward_kl,
    skewed_reverse_kl,
    tvd,
)
from gkd_dist.divergences.kinds import Tvd

TEACHER = torch.log_softmax(torch.tensor([1.0, 0.2, -0.4], dtype=torch.float64), -1)
STUDENT = torch.log_softmax(torch.tensor([-0.3, 0.9, 0.1], dtype=torch.float64), -1)


def test_names_give_their_functions():
    for name, function in {
        "forward_kl": forward_kl,
        "reverse_kl": reverse_kl,
        "tvd": tvd,
        "skewed_forward_kl": skewed_forward_kl,
        "skewed_reverse_kl": skewed_reverse_kl,
    }.items():
        assert make_divergence(name)(TEACHER, STUDENT) == function(TEACHER, STUDENT)


def test_jsd_takes_its_beta():
    made = make_divergence("jsd", beta=0.25)(TEACHER, STUDENT)
    assert made == jsd(TEACHER, STUDENT, 0.25)
    assert made != jsd(TEACHER, STUDENT, 0.75)


def test_normalized_jsd_is_divided_by_beta_times_its_complement():
    made = make_divergence("jsd", beta=0.1, normalize_jsd=True)
    torch.testing.assert_close(made(TEACHER, STUDENT), jsd(TEACHER, STUDENT, 0.1) / 0.09)


def test_made_divergences_pickle():
    for normalize in (False, True):
        made = make_divergence("jsd", beta=0.1, normalize_jsd=normalize)
        assert pickle.loads(pickle.dumps(made))(TEACHER, STUDENT) == made(TEACHER, STUDENT)  # noqa: S301


def test_unknown_names_and_ends_of_beta_are_refused():
    with pytest.raises(ValueError, match=r"'kl'.*forward_kl, reverse_kl, jsd, tvd"):
        make_divergence("kl")
    with pytest.raises(ValueError, match="forward_kl"):
        make_divergence("jsd", beta=0.0)
    assert make_divergence("tvd", beta=0.0) == Tvd()
