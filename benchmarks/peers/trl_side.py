"""One run of TRL, in TRL's own environment: `python trl_side.py WORK.json TRAINER FOLDER`.

TRAINER is `gkd` (experimental GKDTrainer) or `distillation` (DistillationTrainer, on-policy alone). Writes result.json
and the students, `step-K`, into FOLDER. Imports nothing of gkd_dist. Calls inside the trainers are timed by wrapping
the functions they call; nothing that they compute is changed.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()

import torch  # noqa: E402 - importing is part of the time that is measured
from datasets import Dataset  # noqa: E402
from torch.utils.data import SequentialSampler  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback  # noqa: E402
from work import Row, Work, load_rows  # noqa: E402


class Stopwatch:
    """Seconds by part since the last `take`; a part inside another one counts for the outer one alone."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._inside = False

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside = True
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._seconds[name] += time.perf_counter() - began
                self._inside = False

        return measured

    def take(self) -> dict[str, float]:
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds


class Diary(TrainerCallback):
    """Writes down each step, and keeps the students that are asked for (that time is not counted)."""

    def __init__(self, work: Work, folder: Path, watch: Stopwatch) -> None:
        self.steps: list[dict[str, Any]] = []
        self.tokens = 0
        self.losses: list[float] = []
        self.first_step_at = 0.0
        self.install: Callable[[Any], None] = lambda _: None
        self._work, self._folder, self._watch = work, folder, watch
        self._since = 0.0

    def on_train_begin(self, *_: Any, **kwargs: Any) -> None:
        self.install(kwargs["model"])  # the accelerator has put its own forward in place by now
        self.first_step_at = self._since = time.perf_counter()

    def on_step_end(self, _: Any, state: Any, *__: Any, **kwargs: Any) -> None:
        step = {"step_s": time.perf_counter() - self._since, "trained_tokens": self.tokens}
        self.steps.append(step | {"loss": self.losses[-1], "parts_s": self._watch.take()})
        self.tokens = 0
        every = self._work.save_steps
        if state.global_step == self._work.max_steps or (every and state.global_step % every == 0):
            target = self._folder / f"step-{state.global_step}"
            kwargs["model"].save_pretrained(target)
            kwargs["processing_class"].save_pretrained(target)
        self._since = time.perf_counter()


def main() -> None:
    work, trainer, folder = Work.load(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3])
    watch = Stopwatch()
    diary = Diary(work, folder, watch)
    make = {"gkd": gkd, "distillation": distillation}[trainer]
    made = make(work, load_rows(Path(work.rows))[1:], folder, diary, watch)
    dtypes = watch_dtypes(made.model, made.teacher_model)
    made.train()
    result = {
        "versions": {name: version(name) for name in ("trl", "transformers", "torch", "accelerate")},
        "dtypes": dtypes,
        "before_first_step_s": round(diary.first_step_at - STARTED, 2),
        "steps": diary.steps,
    }
    (folder / "result.json").write_text(json.dumps(result) + "\n")


def settings(work: Work, folder: Path) -> dict[str, Any]:
    """As gkd_dist trains: AdamW without decay, constant rate, no dropout, no recomputation, rows in order."""
    return {
        "output_dir": str(folder),
        "max_steps": work.max_steps,
        "per_device_train_batch_size": work.batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "bf16": work.bf16,
        "use_cpu": not torch.cuda.is_available(),
        "learning_rate": work.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": work.max_grad_norm,
        "seed": work.seed,
        "temperature": work.temperature,
        "beta": 0.0,
        "disable_dropout": True,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
    }


def models(work: Work) -> tuple[Any, Any, Any]:
    """Student (float32: its autocast is the trainer's), teacher, tokenizer."""
    teacher_dtype = torch.bfloat16 if work.bf16 else torch.float32
    student = AutoModelForCausalLM.from_pretrained(work.student, dtype=torch.float32)
    teacher = AutoModelForCausalLM.from_pretrained(work.teacher, dtype=teacher_dtype)
    tokenizer = AutoTokenizer.from_pretrained(work.student, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return student, teacher, tokenizer


def watch_dtypes(student: Any, teacher: Any) -> dict[str, str]:
    """Fills with the dtype that the first layer's MLP gives: proof that autocast is on, or off, where it should be."""
    seen: dict[str, str] = {}
    for name, model in (("student", student), ("teacher", teacher)):

        def note(_: Any, __: Any, output: torch.Tensor, name: str = name) -> None:
            kind = name if name == "teacher" else f"{name}, {'trained' if output.requires_grad else 'writing'}"
            seen[kind] = str(output.dtype).removeprefix("torch.")

        model.get_decoder().layers[0].mlp.register_forward_hook(note)
    return seen


def gkd(work: Work, rows: list[Row], folder: Path, diary: Diary, watch: Stopwatch) -> Any:
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    student, teacher, tokenizer = models(work)
    config = GKDConfig(**settings(work, folder), lmbda=work.student_fraction, max_new_tokens=work.max_new_tokens)
    data = Dataset.from_list(
        [
            {
                # The ids that gkd_dist trains on, not the text: no doubt about chat templates and boundaries.
                "prompt": row.rendered,
                "input_ids": row.prompt_ids + row.completion_ids,
                "completion_mask": [0] * len(row.prompt_ids) + [1] * len(row.completion_ids),
            }
            for row in rows
        ]
    )

    class InOrder(GKDTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(train_dataset or self.train_dataset)

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            trained = inputs["labels"][:, 1:] != -100
            diary.tokens += int(trained.sum())
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            # Divided by the tokens of the reference completions, also where others are trained on; see docs/peers.md.
            given = kwargs.get("num_items_in_batch")
            diary.losses.append(float(loss.detach() * (1 if given is None else given) / trained.sum()))
            return loss

    trainer = InOrder(
        model=student, teacher_model=teacher, args=config, train_dataset=data, processing_class=tokenizer,
        callbacks=[diary],
    )  # fmt: skip
    trainer.generate_on_policy_outputs = watch.timed("generate", trainer.generate_on_policy_outputs)
    trainer.generalized_jsd_loss = watch.timed("loss", trainer.generalized_jsd_loss)
    trainer.teacher_model.forward = watch.timed("teacher_forward", trainer.teacher_model.forward)

    def install(model: Any) -> None:
        model.forward = watch.timed("student_forward", model.forward)
        common(trainer, watch)

    diary.install = install
    return trainer


def distillation(work: Work, rows: list[Row], folder: Path, diary: Diary, watch: Stopwatch) -> Any:
    from trl import DistillationConfig, DistillationTrainer
    from trl.trainer import distillation_trainer

    if work.student_fraction != 1:
        sys.exit("DistillationTrainer trains on what the student writes alone: lambda must be 1")
    student, teacher, tokenizer = models(work)
    config = DistillationConfig(
        **settings(work, folder), max_completion_length=work.max_new_tokens, shuffle_dataset=False
    )
    trainer = DistillationTrainer(
        model=student, teacher_model=teacher, args=config, processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": row.rendered} for row in rows]), callbacks=[diary],
    )  # fmt: skip
    inner = distillation_trainer._chunked_divergence_loss
    tokenize = trainer._tokenize_prompts
    compute = trainer.compute_loss
    expected = {row.rendered: row.prompt_ids for row in rows}

    def checked(prompts: list[str]) -> Any:
        answer = tokenize(prompts)
        if [list(ids) for ids in answer[0]] != [expected[prompt] for prompt in prompts]:
            sys.exit("DistillationTrainer tokenizes these prompts otherwise than gkd_dist")
        return answer

    def loss_of(*args: Any, **kwargs: Any) -> Any:
        answer = inner(*args, **kwargs)
        diary.tokens += int(answer[2])
        return answer

    def noted(*args: Any, **kwargs: Any) -> Any:
        loss = compute(*args, **kwargs)
        diary.losses.append(float(loss.detach()))
        return loss

    hidden = trainer._get_last_hidden_state
    of_student = watch.timed("student_forward", hidden)
    of_teacher = watch.timed("teacher_forward", hidden)

    def by_model(model: Any, *args: Any, **kwargs: Any) -> Any:
        return (of_student if model is trainer.model else of_teacher)(model, *args, **kwargs)

    trainer._tokenize_prompts = checked
    trainer.compute_loss = noted
    trainer._get_last_hidden_state = by_model
    trainer._generate_single_turn = watch.timed("generate", trainer._generate_single_turn)
    distillation_trainer._chunked_divergence_loss = watch.timed("loss", loss_of)
    diary.install = lambda _: common(trainer, watch)
    return trainer


def common(trainer: Any, watch: Stopwatch) -> None:
    trainer.accelerator.backward = watch.timed("backward", trainer.accelerator.backward)
    trainer.optimizer.step = watch.timed("optimizer", trainer.optimizer.step)


if __name__ == "__main__":
    main()
