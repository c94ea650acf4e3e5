"""EvalConfig: what `gkd eval` and `gkd generate` measure, on what, and how the model is asked."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, model_validator

from gkd_dist.config.base import WITHOUT_RULES, Strict
from gkd_dist.config.engine_args import engine_args_problems
from gkd_dist.config.reward import RewardConfig

TaskName = Literal["summarisation", "translation", "gsm8k", "mmlu", "bbh", "generation"]
TASKS: tuple[TaskName, ...] = ("summarisation", "translation", "gsm8k", "mmlu", "bbh", "generation")


class EvalFields(Strict):
    """Which columns hold what; null means the task's own names."""

    prompt: str | None = None
    """Text, or a list of texts, which are joined by spaces."""
    reference: str | None = None
    """Text, or a list of texts: several references of one row."""


class ShotsConfig(Strict):
    """Worked examples in front of each question."""

    path: str | None = None
    """Rows as in `data`, or a `.txt` file that is put in front as it is. Null: `dev.jsonl` (MMLU) or `cot-prompts/`
    (BBH) of the data folder, none elsewhere."""
    num: int | None = Field(default=None, ge=0)
    """The first so many examples; null means all there are (5 of MMLU)."""
    style: Literal["cot", "direct"] | None = None
    """Of BBH: `cot` shows and asks for chains of thought, `direct` answers alone; null means `cot`."""


class DecodingConfig(Strict):
    """How text is generated; nothing is left to the model's own generation config."""

    max_new_tokens: int = Field(default=128, ge=1)
    """Most tokens of one completion."""
    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy; above, text is drawn."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the most probable ids that together have this probability; 1 means all."""
    top_k: int = Field(default=0, ge=0)
    """0 means no limit."""
    num_samples: int = Field(default=1, ge=1)
    """Completions of each prompt."""
    num_beams: int = Field(default=1, ge=1)
    """Above 1: beam search (engine hf). T5 translates with 4."""
    length_penalty: float = 1.0
    """Of beam search: the sum of log-probs is divided by length ** length_penalty. T5 translates with 0.6."""
    calculator: Literal["none", "annotations", "equations"] = "none"
    """What the calculator answers instead of the model: `<<48/2=` of GSM8K, or any `48 / 2 =` too."""
    batch_size: int = Field(default=16, ge=1)
    """Prompts in one batch of the hf engine."""


class EvalConfig(Strict):
    """One evaluation of one model on one task."""

    model: str
    """A folder, a hub name, `package:NAME`, or a run directory, whose `final` is meant."""
    task: TaskName = "generation"
    """What is asked, and which figures are computed; `generation` computes none."""
    data: str
    """JSONL (optionally .gz), Parquet, or a hub data set; of mmlu and bbh also the folder with all its files."""
    split: str | None = None
    """Of a hub data set; null means `test`. What is written for training has to say which one (task=generation)."""
    not_in: str | None = None
    """Rows that were trained on, as `data` (of a hub data set the training split): no prompt may be among them."""
    engine: Literal["hf", "vllm"] = "hf"
    """`vllm` writes in large batches; `hf` knows beams and encoder-decoders."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Of the hf engine; divergences are measured there too."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Of vLLM's own, those of speed, memory and parallelism; see `config/engine_args.py`."""
    num_rows: int | None = Field(default=None, ge=1)
    """The first so many rows; of mmlu and bbh, of each subject or task."""
    subsets: tuple[str, ...] | None = None
    """Subjects of mmlu, tasks of bbh; null means all in the data."""
    fields: EvalFields = EvalFields()
    template: str | None = None
    """What a prompt becomes, such as 'summarize: {prompt}'; null means the task's own."""
    apply_chat_template: bool | Literal["auto"] | None = None
    """`auto`: where the tokenizer has one; null: never in mmlu and bbh, `auto` elsewhere."""
    shots: ShotsConfig = ShotsConfig()
    stop: str | tuple[str, ...] | None = None
    """Text, or texts, with which the model would go on to a question of its own: what it writes is cut before the first
    of them. Null: as the examples of `shots` begin; without any, and with an empty list, nothing is cut."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Null: what the model's positions leave after decoding.max_new_tokens."""
    overlong: Literal["error", "drop", "truncate_left", "truncate_right"] = "error"
    """What to do with a longer prompt; the side named is cut away."""
    decoding: DecodingConfig = DecodingConfig()
    teacher: str | None = None
    """Measure the divergence to this model, of the same tokenizer, on what the model writes and on the references."""
    reward: RewardConfig | None = None
    """Judge what the model writes as a run with this reward does."""
    rouge_stemmer: bool = True
    """Porter's stemmer before words are compared."""
    bleu_tokenize: Literal["13a", "intl", "char", "zh", "none"] = "13a"
    """sacrebleu's tokenizer."""
    num_resamples: int = Field(default=1000, ge=100)
    """Of the bootstrap."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Of the intervals."""
    seed: int = Field(default=0, ge=0)
    """Of decoding and of the bootstrap."""
    output: Path | None = None
    """Folder for results.json and predictions.jsonl, new or empty; null means a new one below `evaluations`."""

    @model_validator(mode="after")
    def _rules(self, info: ValidationInfo) -> "EvalConfig":
        problems = [] if info.context == WITHOUT_RULES else self._problems()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _problems(self) -> list[str]:
        of_engine = engine_args_problems(self.engine, self.engine_args)
        return [*of_engine, *self._decoding_problems(), *self._task_problems()]

    def _decoding_problems(self) -> list[str]:
        decoding, problems = self.decoding, []
        if decoding.num_beams > 1:
            if self.engine == "vllm":
                problems.append("decoding.num_beams: beam search needs engine=hf; set that, or num_beams=1")
            if decoding.temperature > 0 or decoding.num_samples > 1:
                problems.append(
                    "decoding.num_beams: beam search returns one completion; set temperature=0 and num_samples=1"
                )
        elif decoding.length_penalty != 1.0:
            problems.append("decoding.length_penalty: only beam search reads it; set num_beams above 1, or remove it")
        if decoding.num_samples > 1 and decoding.temperature == 0:
            problems.append("decoding.num_samples: greedy samples are all alike; set temperature above 0")
        return problems

    def _task_problems(self) -> list[str]:
        problems = []
        if self.task not in ("mmlu", "bbh") and self.subsets is not None:
            problems.append(f"subsets: task={self.task} has none; remove it")
        if self.task in ("summarisation", "translation", "generation") and self.shots != ShotsConfig():
            problems.append(f"shots: task={self.task} has none; put examples into template")
        if self.task in ("gsm8k", "mmlu") and self.shots.style is not None:
            problems.append(f"shots.style: task={self.task} has one alone; remove it")
        if self.task in ("mmlu", "bbh") and self.not_in is not None:
            problems.append(f"not_in: task={self.task} has rows of its own; remove it")
        if self.template is not None and "{prompt}" not in self.template:
            problems.append("template: must contain {prompt}")
        if self.task in ("mmlu", "bbh") and self.template is not None:
            problems.append(f"template: task={self.task} has its own; remove it")
        if self.stop is not None and "" in (self.stop, *self.stop):
            problems.append("stop: an empty text stands before every text; name what begins the next question")
        if self.task == "mmlu" and self.stop is not None:
            problems.append("stop: task=mmlu writes no text to cut; remove it")
        if self.task == "mmlu" and self.reward is not None:
            problems.append("reward: task=mmlu writes no text to judge; remove it")
        if self.task == "mmlu" and self.decoding.calculator != "none":
            problems.append("decoding.calculator: task=mmlu writes no text to compute in; remove it")
        if self.task == "mmlu" and self.teacher is not None:
            problems.append("teacher: task=mmlu writes no text to compare on; remove it")
        return problems
