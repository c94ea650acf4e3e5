"""Golden answers: what is read from each kind of targets, and which differences are seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gkd_dist.checks import TeacherCheck, Tolerance
from gkd_dist.divergences import Readout
from gkd_dist.targets import FullTargets, HiddenTargets, SampledTargets, TeacherTargets, TopKTargets
from gkd_dist.teachers.golden import NUM_TOP, Answers, Golden, compare, top_answers
from tests import tiny

SEQUENCES = tiny.trajectories([(3, 4), (2, 1), (5, 6)])
WEIGHT = torch.randn(tiny.VOCABULARY, 16, generator=torch.Generator().manual_seed(1))
READOUT = Readout(WEIGHT, logit_scale=0.5)
TOLERANCE = Tolerance(1e-3, 1e-3)


def hidden_targets(noise: float = 0.0) -> list[HiddenTargets]:
    rng = np.random.default_rng(7)
    states = [rng.normal(size=(each.num_completion_tokens, 16)) for each in SEQUENCES]
    return [HiddenTargets((each + noise * rng.normal(size=each.shape)).astype(np.float32)) for each in states]


def targets_of(kind: str, readout: Readout = READOUT) -> list[TeacherTargets]:
    """The same teacher's answers in every transport."""
    hidden = hidden_targets()
    if kind == "hidden":
        return hidden
    found: list[TeacherTargets] = []
    for item, sequence in zip(hidden, SEQUENCES, strict=True):
        log_probs = torch.log_softmax(readout.logits(torch.from_numpy(item.hidden)), -1)
        if kind == "full":
            found.append(FullTargets(log_probs.numpy()))
        elif kind == "topk":
            values, ids = log_probs.topk(12)
            found.append(TopKTargets(ids.numpy().astype(np.int32), values.numpy()))
        else:
            own = torch.from_numpy(sequence.completion_ids).long()[:, None]
            found.append(SampledTargets(log_probs.gather(1, own)[:, 0].numpy()))
    return found


def check(
    targets: list[TeacherTargets], readout: Readout | None = None, golden: list[TeacherTargets] | None = None
) -> TeacherCheck:
    """Against `golden`, else against the exact log-probs of the same teacher."""
    answers = top_answers(SEQUENCES, golden or targets_of("full"), None)
    return compare(Golden(answers, "the engine's own log-probs"), SEQUENCES, targets, readout, TOLERANCE)


@pytest.mark.parametrize("kind", ["hidden", "topk", "full", "sampled"])
def test_answers_that_are_repeated_pass(kind: str) -> None:
    targets = targets_of(kind)
    answers = top_answers(SEQUENCES, targets, READOUT)
    assert answers.token_ids.shape == (11, 1 if kind == "sampled" else NUM_TOP)
    found = compare(Golden(answers, "its first answers"), SEQUENCES, targets, READOUT, TOLERANCE)
    assert found.passed
    assert (found.num_tokens, found.max_gap_nats) == (11, 0.0)
    assert found.top1_agreement == (None if kind == "sampled" else 1.0)


@pytest.mark.parametrize("kind", ["hidden", "topk"])
def test_other_transports_say_what_full_log_probs_say(kind: str) -> None:
    """To 1e-5 nats: a log-softmax taken twice in float32."""
    found = check(targets_of(kind), READOUT)
    assert found.passed
    assert found.max_gap_nats < 1e-5


@pytest.mark.parametrize(
    ("name", "readout"),
    [
        ("scale", replace(READOUT, logit_scale=0.25)),
        ("head", replace(READOUT, weight=WEIGHT.flip(0))),
        ("one row of the head", replace(READOUT, weight=torch.cat([WEIGHT[:40], WEIGHT[40:41] + 5, WEIGHT[41:]]))),
        ("bias", replace(READOUT, bias=torch.linspace(-1, 1, tiny.VOCABULARY))),
        ("soft cap", replace(READOUT, soft_cap=2.0)),
        ("number of ids", replace(READOUT, num_ids=100)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_readout_is_seen(name: str, readout: Readout) -> None:
    found = check(targets_of("hidden"), readout)
    assert not found.passed
    assert found.max_gap_nats > 0.05


def test_states_from_before_the_final_norm_are_seen() -> None:
    bare = [HiddenTargets(item.hidden * 3.0) for item in hidden_targets()]
    found = check(bare, READOUT)
    assert not found.passed
    assert found.top1_agreement == 1.0  # a longer vector points at the same token: the gap alone tells
    assert "largest difference" in str(found)


def test_a_small_perturbation_beyond_the_tolerance_is_seen_and_one_within_is_not() -> None:
    assert not check(hidden_targets(noise=1e-2), READOUT).passed
    assert check(hidden_targets(noise=1e-6), READOUT).passed


@pytest.mark.parametrize("kind", ["topk", "full", "sampled"])
def test_a_teacher_that_answers_uniformly_is_seen_whatever_was_expected(kind: str) -> None:
    flat = targets_of(kind, replace(READOUT, logit_scale=0.0))
    found = check(flat, golden=flat)
    assert not found.passed
    assert "says the same about every token (log-prob -4.852)" in str(found)


@pytest.mark.parametrize(("value", "fault"), [(np.nan, "not finite"), (0.5, "must not be above 0")])
def test_numbers_that_are_no_log_probs_are_seen(value: float, fault: str) -> None:
    broken = [FullTargets(item.log_probs.copy()) for item in targets_of("full")]
    broken[1].log_probs[0, 3] = value
    found = check(broken, golden=broken)
    assert not found.passed
    assert fault in str(found)


def test_a_top_k_that_lost_a_probable_id_is_seen_by_what_it_leaves_out() -> None:
    """The golden best is gone from the answer; at most it is as probable as the answer's last."""
    targets = [TopKTargets(item.token_ids[:, 1:], item.log_probs[:, 1:]) for item in targets_of("topk")]
    found = check(targets)
    assert not found.passed
    assert found.top1_agreement < 1.0


def test_two_equally_probable_ids_agree_in_either_order() -> None:
    log_probs = np.log(np.array([[0.4, 0.4, 0.2], [0.7, 0.2, 0.1]], np.float32))
    golden = Golden(Answers(np.array([[1, 0], [0, 1]], np.int32), log_probs[:, :2]), "its engine's own log-probs")
    found = compare(golden, tiny.trajectories([(1, 2)]), [FullTargets(log_probs)], None, TOLERANCE)
    assert found.passed


@pytest.mark.parametrize("num_top", [1, 2])
def test_a_best_id_that_golden_does_not_list_may_be_a_tie(num_top: int) -> None:
    """Golden knows of it only that it was at most as probable as its last."""
    log_probs = np.log(np.array([[0.3, 0.3, 0.3, 0.1], [0.7, 0.1, 0.1, 0.1]], np.float32))
    sequences = tiny.trajectories([(1, 2)])
    golden = TopKTargets(np.array([[0, 1], [0, 1]], np.int32)[:, :num_top], log_probs[:, :num_top])
    again = TopKTargets(np.array([[2, 1], [0, 2]], np.int32)[:, :num_top], log_probs[:, :num_top])
    expected = Golden(top_answers(sequences, [golden], None), "its first answers")
    found = compare(expected, sequences, [again], None, TOLERANCE)
    assert found.top1_agreement == 1.0
    assert found.passed


def test_a_best_id_that_golden_does_not_list_disagrees_where_goldens_last_is_less_probable() -> None:
    log_probs = np.log(np.array([[0.6, 0.3, 0.1], [0.7, 0.2, 0.1]], np.float32))
    sequences = tiny.trajectories([(1, 2)])
    golden = TopKTargets(np.array([[0, 1], [0, 1]], np.int32), log_probs[:, :2])
    again = TopKTargets(np.array([[2, 0], [0, 1]], np.int32), log_probs[:, :2])
    found = compare(
        Golden(top_answers(sequences, [golden], None), "its first answers"), sequences, [again], None, TOLERANCE
    )
    assert found.top1_agreement == 0.5
    assert not found.passed


def test_the_log_prob_of_one_token_names_no_most_probable_one() -> None:
    found = check(targets_of("sampled"), golden=targets_of("sampled"))
    assert found.passed and found.top1_agreement is None
    assert "top-1" not in str(found)


def test_hidden_states_without_a_readout_are_refused() -> None:
    with pytest.raises(ValueError, match="HiddenTargets"):
        check(targets_of("hidden"), None)


def test_a_small_difference_everywhere_is_seen_where_a_larger_one_at_one_token_is_not() -> None:
    tolerance = Tolerance(max_nats=0.5, mean_nats=0.05)
    full = targets_of("full")
    golden = Golden(top_answers(SEQUENCES, full, None), "its first answers")
    everywhere = [FullTargets(item.log_probs - np.float32(0.1)) for item in full]
    once = [FullTargets(item.log_probs.copy()) for item in full]
    once[0].log_probs[1, :] -= np.float32(0.3)
    assert not compare(golden, SEQUENCES, everywhere, None, tolerance).passed
    assert compare(golden, SEQUENCES, once, None, tolerance).passed


@pytest.mark.parametrize("kind", ["hidden", "topk", "full"])
def test_the_check_holds_what_replicas_are_compared_by(kind: str) -> None:
    exact = torch.from_numpy(np.concatenate([each.log_probs for each in targets_of("full")])).amax(1)
    assert check(targets_of(kind), READOUT).top_log_probs == pytest.approx(exact.tolist(), abs=1e-5)
