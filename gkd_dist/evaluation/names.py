"""What figures are called, so that it can be said before anything is measured."""

from gkd_dist.config.evaluation import TaskName

KINDS_OF_ROUGE = ("rouge1", "rouge2", "rougeL")
OF_TEXT = (
    "mean_length_tokens",
    "truncated_share",
    "self_bleu",
    "reward_mean",
    *(
        f"{text}/{divergence}_nats"
        for text in ("student_text", "reference_text")
        for divergence in ("forward_kl", "reverse_kl", "jsd")
    ),
)
"""Of every task that writes text, some of them where a teacher, a reward or several samples are asked for."""
OF_TASK: dict[TaskName, tuple[str, ...]] = {
    "summarisation": (*KINDS_OF_ROUGE, *OF_TEXT),
    "translation": ("bleu", *OF_TEXT),
    "gsm8k": ("accuracy", "accuracy_last_number", *OF_TEXT),
    "mmlu": ("accuracy_task_average", "accuracy"),
    "bbh": ("exact_match_task_average", "exact_match", *OF_TEXT),
    "generation": OF_TEXT,
}
BY_SUBSET: dict[TaskName, str] = {"mmlu": "accuracy/", "bbh": "exact_match/"}
"""How the figures of single subsets begin."""
OF_RUN = (
    "on_policy/objective_nats",
    "on_policy/forward_kl_nats",
    "on_policy/reverse_kl_nats",
    "on_policy/mean_length_tokens",
    "on_policy/truncated_share",
    "on_policy/reward_mean",
    "reference/nll_nats",
    "reference/forward_kl_nats",
)
"""Of the held-out rows of a run, as far as its objective and its data have them."""


def is_figure(name: str, task: TaskName) -> bool:
    """Whether an evaluation of `task` may have it."""
    return name in OF_TASK[task] or (task in BY_SUBSET and name.startswith(BY_SUBSET[task]))
