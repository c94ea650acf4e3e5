"""From configuration to objective."""

from pathlib import Path

from gkd_dist.build import Blueprint
from gkd_dist.build.learner import objective_of
from gkd_dist.config.load import load_run_config
from gkd_dist.divergences import make_divergence
from gkd_dist.learners.objective import Distillation, Objective
from gkd_dist.learners.sequence import SequenceReverseKl
from gkd_dist.learners.targets import TargetRules


def chosen(*overrides: str) -> Objective:
    config = load_run_config("tiny", ("student.model=s", "teacher.model=t", "teacher.transport=topk", *overrides))
    blueprint = Blueprint(
        config, Path("s"), {"teacher": Path("t")}, pad_token_id=0, num_ids=9, run_epoch="e", golden=()
    )
    return objective_of(blueprint)


def test_a_divergence_gets_its_numbers() -> None:
    found = chosen("objective.divergence=skewed_reverse_kl", "objective.skew=0.3")
    assert isinstance(found, Distillation)
    assert found.divergence == make_divergence("skewed_reverse_kl", skew=0.3)
    found = chosen("objective.divergence=jsd", "objective.beta=0.2", "objective.normalize_jsd=true")
    assert isinstance(found, Distillation)
    assert found.divergence == make_divergence("jsd", beta=0.2, normalize_jsd=True)


def test_the_rules_are_those_of_the_configuration() -> None:
    found = chosen("objective.topk_tail=generalized", "objective.max_importance=3", "sampling.temperature=0.7")
    assert found.rules == TargetRules(9, False, "generalized", off_policy=True, max_importance=3.0)
    assert chosen("learner.bf16=true").rules == TargetRules(9, bf16=True)


def test_sequences_have_an_objective_of_their_own() -> None:
    extra = ("objective.divergence=sequence_reverse_kl", "objective.student_fraction=1")
    assert isinstance(chosen(*extra), SequenceReverseKl)
    assert [chosen(*extra, *last).length_normalized for last in ((), ("objective.length_normalized=false",))] == [
        True,
        False,
    ]
