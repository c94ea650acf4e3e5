"""What a run is told as: what it works on, the table, the samples, the summary and the model card (floor F5)."""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from gkd_dist import __version__
from gkd_dist.config.run import RunConfig
from gkd_dist.metrics.console import print_side_by_side, print_table
from gkd_dist.pipeline.evaluation import Evaluation
from gkd_dist.pipeline.job import Outcome
from gkd_dist.pipeline.teacher_answers import TeacherAnswers
from gkd_dist.preparation.prepared import PreparedJob
from gkd_dist.runs.run_directory import RunDirectory
from gkd_dist.types import Trajectory

SMALLEST_NATS = 1e-4
"""A divergence below this is noise; a share of it says nothing."""


def figures(evaluation: Evaluation) -> dict[str, float]:
    """Held-out numbers by name, with units in the name."""
    own, reference = evaluation.on_policy, evaluation.reference
    figures: dict[str, float] = {}
    if own is not None:
        figures["on_policy/objective_nats"] = own.objective
        figures["on_policy/forward_kl_nats"] = own.forward_kl
        figures["on_policy/reverse_kl_nats"] = own.reverse_kl
    figures["on_policy/mean_length_tokens"] = evaluation.mean_completion_tokens
    figures["on_policy/truncated_share"] = evaluation.truncated_share
    if evaluation.reward_mean is not None:
        figures["on_policy/reward_mean"] = evaluation.reward_mean
    if reference is not None:
        if own is None:  # without a teacher the objective is the likelihood of the references
            figures["reference/nll_nats"] = reference.objective
        else:
            figures["reference/forward_kl_nats"] = reference.forward_kl
    return figures


def report(job: PreparedJob, outcome: Outcome, directory: RunDirectory, elapsed_s: float) -> None:
    """The table, the samples, and their files; the summary alone where nothing was evaluated. It marks the end."""
    before, after = outcome.before, outcome.after
    if before is None or after is None:
        directory.write_summary(_summary(job, elapsed_s))
        return
    samples = sample_rows(job, before, after, outcome.teachers)
    directory.write_samples(samples)
    held_out = {"before": known(figures(before)), "after": known(figures(after))}
    left_out = {"before": before.left_out, "after": after.left_out}
    told = {"left_out": left_out} if any(left_out.values()) else {}
    directory.write_summary(_summary(job, elapsed_s) | held_out | told)
    for row in samples:
        if "before_greedy" in row:
            answers = {"before (greedy)": row["before_greedy"], "after (greedy)": row["after_greedy"]}
            own = {key: row[key] for key in row if key.startswith("teacher_greedy")}
            answers |= {key.replace("_greedy", ""): text for key, text in own.items()}
            print_side_by_side(sys.stdout, row["prompt"], answers)
    new = figures(after)
    rows = [[name, text_of(value), text_of(new[name])] for name, value in figures(before).items()]
    if before.on_policy is not None and after.on_policy is not None:
        rows.append(["on-policy divergence falls by", "", _fall(before.on_policy.objective, after.on_policy.objective)])
    print_table(sys.stdout, f"{directory.name}, {elapsed_s:.0f} s", ["held out", "before", "after"], rows)
    if any(teacher.transport in ("topk", "sampled") for teacher in job.blueprint.config.named_teachers.values()):
        print(f"measured through {transport_name(job.blueprint.config)}", flush=True)


def known(figures: dict[str, float]) -> dict[str, float | None]:
    """The same, with None for what is not a number, which JSON cannot hold."""
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def text_of(value: float) -> str:
    """A figure to read; `n/a` where the teacher's transport cannot tell it."""
    return "n/a" if math.isnan(value) else f"{value:z.3f}"


def _fall(before: float, after: float) -> str:
    """By which share `after` is below `before`; `-` where there is nothing, or too little, to divide by."""
    return f"{1 - after / before:.0%}" if before >= SMALLEST_NATS and not math.isnan(after) else "-"


def sample_rows(
    job: PreparedJob, before: Evaluation, after: Evaluation | None = None, teachers: TeacherAnswers | None = None
) -> list[dict[str, str]]:
    """One row per held-out prompt: what was sampled (empty where that was refused), and for the first ones the greedy
    answers, the teachers' too.

    Args:
        after: None before there is one.
    """

    def by_prompt(trajectories: Sequence[Trajectory]) -> dict[int, str]:
        return {each.sample_id.prompt_index: job.renderer.decode(each.completion_ids) for each in trajectories}

    decode = job.renderer.decode
    named = len(job.blueprint.teachers) > 1
    sampled, shown = by_prompt(before.samples), by_prompt(before.shown)
    sampled_after, shown_after = (by_prompt(after.samples), by_prompt(after.shown)) if after is not None else ({}, {})
    rows = []
    for index, held_out in enumerate(job.rendered.held_out):
        reference = held_out.completion_ids
        row = {
            "prompt": held_out.text,
            "before": sampled.get(index, ""),
            **({} if after is None else {"after": sampled_after.get(index, "")}),
            "reference": "" if reference is None else decode(reference),
        }
        if index in shown or index in shown_after:
            row["before_greedy"] = shown.get(index, "")
            if after is not None:
                row["after_greedy"] = shown_after.get(index, "")
        for name, answers in (teachers or {}).items():
            if index in answers:
                row[f"teacher_greedy/{name}" if named else "teacher_greedy"] = decode(answers[index])
        rows.append(row)
    return rows


def _summary(job: PreparedJob, elapsed_s: float) -> dict[str, object]:
    config = job.blueprint.config
    return {
        "student": student_name(config),
        "teacher": teacher_name(config),
        "transport": transport_name(config),
        "divergence": config.objective.divergence,
        "student_fraction": student_fraction(config),
        "steps": config.learner.max_steps,
        "elapsed_s": round(elapsed_s, 1),
    }


def student_name(config: RunConfig) -> str:
    prune = config.student.prune
    return config.student.model + (f", pruned to {prune.num_layers} layers" if prune else "")


def teacher_name(config: RunConfig) -> str:
    """The teacher's model, or `none`; of several, each with its part in the whole."""
    teachers, combine = config.named_teachers, config.objective.combine_teachers
    if not teachers:
        return "none"
    if combine is None:
        return ", ".join(teacher.model for teacher in teachers.values())
    if combine == "route":
        parts = [f"{name}: {teacher.model} for {', '.join(teacher.sources)}" for name, teacher in teachers.items()]
        return "; ".join(parts)
    total = sum(teacher.weight for teacher in teachers.values())
    parts = [f"{name}: {teacher.weight / total:.3g} of {teacher.model}" for name, teacher in teachers.items()]
    return f"{combine} mixture ({'; '.join(parts)})"


def student_fraction(config: RunConfig) -> float | str:
    """lambda of the paper; a text where it moves over the run: from where, to where, and how."""
    objective, schedule = config.objective, config.objective.schedule
    if schedule.type == "constant" or schedule.final is None:
        return objective.student_fraction
    where = "" if schedule.at_step is None else f", at step {schedule.at_step:,}"
    return f"{objective.student_fraction:g} to {schedule.final:g} ({schedule.type}{where})"


def transport_name(config: RunConfig) -> str:
    """What the teachers send, and what that means for the figures."""
    names = {
        f"topk {teacher.top_k}" if teacher.transport == "topk" else teacher.transport
        for teacher in config.named_teachers.values()
    }
    kinds = {teacher.transport for teacher in config.named_teachers.values()}
    notes = [f"{config.objective.topk_tail} tail: divergences are lower bounds"] if "topk" in kinds else []
    notes += ["reverse KL estimated from one token per position"] if "sampled" in kinds else []
    return ", ".join(sorted(names)) + (f" ({'; '.join(notes)})" if notes else "")


def teacher_counts(config: RunConfig) -> str:
    """`1 teacher(s)`, or how many of each."""
    counts = {name: teacher.num_replicas for name, teacher in config.named_teachers.items()}
    each = f" ({', '.join(f'{number} {name}' for name, number in counts.items())})" if len(counts) > 1 else ""
    return f"{sum(counts.values())} teacher(s){each}"


def card_of(job: PreparedJob, outcome: Outcome, num_trained_tokens: int) -> str:
    from gkd_dist.models.cards import DistillationFacts, license_of, model_card

    config = job.blueprint.config
    lora = config.student.lora
    return model_card(
        DistillationFacts(
            name=config.name,
            teacher=teacher_name(config) if config.named_teachers else "",
            student=student_name(config),
            transport=transport_name(config),
            divergence=config.objective.divergence,
            student_fraction=student_fraction(config),
            num_steps=config.learner.max_steps,
            num_trained_tokens=num_trained_tokens,
            adapter_of=job.blueprint.base_name() if lora is not None and lora.save == "adapter" else None,
            alpha=config.objective.alpha,
            reward=config.reward.source if config.reward else "",
            metrics={} if outcome.after is None else figures(outcome.after),
            before={} if outcome.before is None else figures(outcome.before),
            num_held_out=len(job.rendered.held_out),
            data=_data_name(config.data.path),
            dataset=_hub_data_set(config.data.path),
            num_prompts=len(job.rendered.train),
            base_model=config.student.model,
            encoder_decoder=_is_encoder_decoder(job.blueprint.student),
            chat=job.renderer.uses_chat_template,
            seed=config.seed,
            version=__version__,
        ),
        license=license_of(job.blueprint.student),
    )


def _hub_data_set(path: str | None) -> str | None:
    """Without its configuration."""
    return None if path is None or Path(path).expanduser().exists() else path.partition(":")[0]


def _data_name(path: str | None) -> str:
    """Without folders of this machine."""
    if path is None:
        return "the word problems that come with gkd-dist"
    return f"the file {Path(path).name}" if Path(path).expanduser().exists() else path


def _is_encoder_decoder(folder: Path) -> bool:
    return bool(json.loads((folder / "config.json").read_bytes()).get("is_encoder_decoder"))


def describe(job: PreparedJob) -> list[str]:
    """What a run would work on, one line per part."""
    blueprint, rendered = job.blueprint, job.rendered
    dropped = ", ".join(f"{number} {reason}" for reason, number in rendered.num_dropped.items()) or "none"
    shared = " shared by student and teacher" if blueprint.teachers else ""
    shared += "s" if len(blueprint.teachers) > 1 else ""
    sources = ", ".join(f"{number} {source}" for source, number in job.rows.sources.items())
    return [
        f"data: {job.rows}",
        *([f"sources: {sources}"] if blueprint.config.objective.combine_teachers == "route" else []),
        f"prompts: {len(rendered.train)} to train on, {len(rendered.held_out)} held out, dropped: {dropped}, "
        f"longest {rendered.longest_tokens} tokens",
        f"tokenizer: {blueprint.num_ids} ids{shared}; chat template "
        f"{'applied' if job.renderer.uses_chat_template else 'not applied'}",
        *_reward_line(blueprint.config),
    ]


def _reward_line(config: RunConfig) -> list[str]:
    if config.reward is None:
        return []
    objective, num_generations = config.objective, config.sampling.num_generations
    return [
        f"reward: {config.reward.source}, {1 - objective.alpha:g} of the objective; baseline {objective.baseline}, "
        f"{num_generations} sample(s) of each prompt"
    ]
