"""Which learner and which objective a configuration asks for."""

from typing import TYPE_CHECKING

from gkd_dist.build.environment import device_of
from gkd_dist.interfaces import Learner

if TYPE_CHECKING:
    from gkd_dist.build.blueprint import Blueprint
    from gkd_dist.divergences import Readout
    from gkd_dist.learners.objective import Objective
    from gkd_dist.learners.seat import RankSeat
    from gkd_dist.learners.targets import TargetRules, TeacherView


def make_learner(blueprint: "Blueprint", restart: int, seat: "RankSeat | None" = None) -> Learner:
    """The whole student on one device, or the part of one rank."""
    from gkd_dist.learners.layouts import choose_layout
    from gkd_dist.learners.learner import GkdLearner
    from gkd_dist.learners.load import load_student
    from gkd_dist.learners.sharded import shard
    from gkd_dist.learners.step import LossSettings
    from gkd_dist.learners.world import ALONE, RankGroup
    from gkd_dist.weights.publisher import WeightPublisher

    config, objective = blueprint.config, blueprint.config.objective
    group = seat and RankGroup(seat, device_of(config.cluster.num_gpus_learner))  # meet before loading anything
    student = load_student(
        blueprint.student,
        gradient_checkpointing=config.learner.gradient_checkpointing,
        device=device_of(config.cluster.num_gpus_learner),
        lora=config.student.lora,
        base_name=blueprint.base_name(),
        dropout=config.learner.dropout,
        seed=config.seed,
    )
    settings = LossSettings(
        objective=objective_of(blueprint),
        reduction=objective.reduction,
        bf16=config.learner.bf16,
        max_micro_batch_tokens=config.learner.max_micro_batch_tokens,
        pad_token_id=blueprint.pad_token_id,
        num_ids=blueprint.num_ids,
        layout=choose_layout(student, config.learner.packing),
        behaviour_temperature=_behaviour_temperature(blueprint),
        loss_memory_bytes=config.learner.loss_memory_bytes,
    )
    return GkdLearner(
        shard(student, group) if group else student,
        source=blueprint.student,
        config=config.learner,
        settings=settings,
        publisher=WeightPublisher(
            # Greater than that of every learner before it: samplers follow the newest.
            f"{blueprint.run_epoch}-{restart:04d}",
            config.weights.bucket_bytes,
            config.weights.dtype or config.sampler.dtype,
        ),
        world=group or ALONE,
    )


def objective_of(blueprint: "Blueprint") -> "Objective":
    """What the learner minimises."""
    from gkd_dist.learners.reinforced import Reinforced

    config = blueprint.config
    if config.objective.alpha == 1:
        return _distillation(blueprint)
    return Reinforced(
        _distillation(blueprint), config.objective.alpha, config.samples_off_policy, config.objective.max_importance
    )


def _distillation(blueprint: "Blueprint") -> "Objective":
    from gkd_dist.divergences import make_divergence
    from gkd_dist.learners.objective import Distillation, Likelihood
    from gkd_dist.learners.sequence import SequenceReverseKl

    if blueprint.config.objective.divergence == "nll":
        return Likelihood()
    objective, rules = blueprint.config.objective, _target_rules(blueprint)
    teachers = {name: _teacher_view(blueprint, name) for name in blueprint.config.named_teachers}
    if objective.divergence == "sequence_reverse_kl":
        return SequenceReverseKl(teachers, rules, objective.length_normalized)
    divergence = make_divergence(
        objective.divergence, beta=objective.beta, normalize_jsd=objective.normalize_jsd, skew=objective.skew
    )
    return Distillation(divergence, teachers, rules)


def _behaviour_temperature(blueprint: "Blueprint") -> float | None:
    """None where samplers cut the distribution or mix the teacher in, or the learner drops at random: then it cannot
    say what came out."""
    sampling = blueprint.config.sampling
    if blueprint.config.learner.dropout:
        return None
    cut = sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0
    return None if cut or sampling.teacher_mix > 0 else sampling.temperature


def _target_rules(blueprint: "Blueprint") -> "TargetRules":
    from gkd_dist.learners.targets import TargetRules

    combine = blueprint.config.objective.combine_teachers
    return TargetRules(
        num_ids=blueprint.num_ids,
        bf16=blueprint.config.learner.bf16,
        memory_bytes=blueprint.config.learner.loss_memory_bytes,
        mixture=None if combine == "route" else combine,
        tail=blueprint.config.objective.topk_tail,
        off_policy=blueprint.config.samples_off_policy,
        max_importance=blueprint.config.objective.max_importance,
    )


def _teacher_view(blueprint: "Blueprint", name: str) -> "TeacherView":
    from gkd_dist.learners.targets import TeacherView

    teacher = blueprint.config.named_teachers[name]
    return TeacherView(_teacher_readout(blueprint, name), teacher.temperature, teacher.weight)


def _teacher_readout(blueprint: "Blueprint", name: str) -> "Readout | None":
    teacher = blueprint.config.named_teachers[name]
    if teacher.transport != "hidden":
        return None
    from gkd_dist.teachers.readout import load_readout

    readout = load_readout(
        blueprint.teachers[name],
        dtype=teacher.dtype,
        num_ids=blueprint.num_ids,
        device=device_of(blueprint.config.cluster.num_gpus_learner),
    )
    # Converted for products once, not in every micro-batch.
    return readout.frozen(_target_rules(blueprint).compute_dtype)
