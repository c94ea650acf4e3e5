"""Which student and which teacher, and the engines that run them."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from gkd_dist.config.base import MAX_COUNT, MAX_DURATION_S, MAX_REPLICAS, Strict
from gkd_dist.config.engine_args import engine_args_problems
from gkd_dist.config.lora import LoraConfig
from gkd_dist.config.owners import idle_keys, without_effect

Dtype = Literal["float32", "bfloat16"]

_VLLM_MAX_NUM_SEQS = 128
"""What an engine of vLLM runs at once, where `max_num_seqs` is not set."""
_HF_TEACHER_SEQUENCES = 64
"""What the hf engine of a teacher scores together."""


class PruneConfig(Strict):
    """Make the student by dropping decoder layers of `student.model`."""

    num_layers: int = Field(ge=1)
    """How many layers the student keeps."""
    drop_layers: tuple[int, ...] | None = None
    """Exactly these; None measures which removals change the model least."""

    @model_validator(mode="after")
    def _distinct(self) -> "PruneConfig":
        if self.drop_layers is not None and len(set(self.drop_layers)) != len(self.drop_layers):
            raise ValueError("drop_layers names a layer twice; name each layer once")
        return self


SCRATCH = "scratch:"
"""Begins the reference of a model that does not exist yet."""


class ScratchConfig(Strict):
    """Make the student, with random weights, and a tokenizer for it."""

    vocab_size: int = Field(ge=300)
    """Of the tokenizer: byte-level BPE with single digits, trained on prompts and completions of the training rows."""
    config: dict[str, Any]
    """Keys of the model's configuration in transformers: its sizes (`d_model`, `num_layers`, ...)."""


class StudentConfig(Strict):
    model: str
    """A local folder (of a model, or of a saved adapter), a hub name, `package:NAME` for a GGUF model inside an
    installed Python package, or `scratch:TYPE`, such as scratch:t5, for a new one of a type that transformers knows."""
    scratch: ScratchConfig | None = None
    """What `scratch:TYPE` looks like; with the same data and seed it is the same model."""
    prune: PruneConfig | None = None
    lora: LoraConfig | None = None
    """Train low-rank adapters alone; None trains every parameter."""

    @property
    def model_type(self) -> str | None:
        """Of a student made from scratch, else None."""
        return self.model.removeprefix(SCRATCH) if self.model.startswith(SCRATCH) else None

    @model_validator(mode="after")
    def _one_origin(self) -> "StudentConfig":
        problems = []
        if self.model_type is not None and self.scratch is None:
            problems.append(f"model={self.model} needs scratch; set scratch.vocab_size and scratch.config")
        if self.model_type is None and self.scratch is not None:
            problems.append(f"model={self.model} is there already and needs no scratch; set scratch=null")
        for key in ("prune", "lora"):
            if self.model_type is not None and getattr(self, key) is not None:
                problems.append(f"{key} needs a model that has learned something, and {self.model} has not; remove it")
        if problems:
            raise ValueError("\n".join(problems))
        return self


SAMPLER_KEYS_OF = {("engine", "hf"): ("max_batch_size",)}


class SamplerConfig(Strict):
    engine: Literal["vllm", "hf"] = "vllm"
    """`vllm`, or `hf`: transformers in the actor, which encoder-decoders need."""
    num_replicas: int = Field(default=1, ge=1, le=MAX_REPLICAS)
    """At the start; `gkd scale` changes the number of a running job."""
    min_replicas: int | None = Field(default=None, ge=1, le=MAX_REPLICAS)
    """Fewest that scaling goes down to; None means 1."""
    max_replicas: int | None = Field(default=None, ge=1, le=MAX_REPLICAS)
    """Most that scaling goes up to; set it (or min_replicas) to let queue pressure choose the number. None: 10,000
    for `gkd scale`, and no policy, or with min_replicas one that goes no higher than num_replicas or what was asked."""
    dtype: Dtype = "bfloat16"
    """Of the weights that the engine computes with."""
    max_model_len: int = Field(default=1024, ge=2)
    """Longest prompt plus completion, tokens."""
    max_batch_size: int = Field(default=64, ge=1)
    """Most sequences that the hf engine writes at once: those that were asked for while it wrote others. It changes
    speed and memory, not what is sampled. vllm batches by itself; see `max_num_seqs` among its arguments."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Of vLLM's own, those of speed, memory and parallelism; see `config/engine_args.py`."""
    max_ongoing_requests: int | None = Field(default=None, ge=1, le=MAX_COUNT)
    """Requests that a replica has in hand at most; the others wait in the controller, first come, first served, and go
    to whoever has room. In async mode a request is a prompt with its num_generations samples, in sync mode a replica's
    share of a batch. None: as many as hold twice the sequences that the engine writes at once (max_batch_size of hf,
    `max_num_seqs` of vllm, 128 unless engine_args has it), so that it always finds its next batch. Fewer let replicas
    that join take over more, and let a request begin its time (cluster.request_timeout_s) later."""

    @property
    def num_at_once(self) -> int:
        """Sequences that one replica writes together."""
        if self.engine == "hf":
            return self.max_batch_size
        return int(self.engine_args.get("max_num_seqs") or _VLLM_MAX_NUM_SEQS)

    @model_validator(mode="after")
    def _fits_engine(self) -> "SamplerConfig":
        problems = engine_args_problems(self.engine, self.engine_args)
        problems += without_effect(SAMPLER_KEYS_OF, self, self.model_fields_set)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def idle_keys(self) -> set[str]:
        """Keys that nothing reads under this engine."""
        return idle_keys(SAMPLER_KEYS_OF, self)


TRANSPORTS_OF = {
    "vllm": ("hidden", "topk", "sampled"),
    "hf": ("hidden", "topk", "full", "sampled"),
    "server": ("topk", "sampled"),
}
"""What each engine of a teacher can send."""

TEACHER_KEYS_OF = {
    ("engine", "vllm"): ("dtype", "engine_args", "score_cache_bytes"),
    ("engine", "hf"): ("dtype", "score_cache_bytes"),
    ("engine", "server"): (
        "base_url",
        "served_model_name",
        "api_key_env",
        "max_concurrent_requests",
        "request_timeout_s",
        "max_retries",
    ),
    ("transport", "topk"): ("top_k",),
    ("transport", "hidden"): ("verify_readout",),
}


RESERVED_ENGINE_ARGS = {
    "model": "model",
    "dtype": "dtype",
    "max_model_len": "max_model_len",
    "max_logprobs": "top_k",
    "runner": "transport",
    "convert": "transport",
    "pooler_config": "transport",
    "logprobs_mode": "transport",
    "worker_extension_cls": "transport",
    "enable_prefix_caching": "transport",
}
"""Arguments of vLLM that a teacher's transport depends on -> the key of the teacher that decides them."""


class TeacherConfig(Strict):
    model: str
    """A local folder, a hub name, or `package:NAME`. With engine=server it is read for its tokenizer and config.json
    alone: weights are not needed."""
    weight: float = Field(default=1.0, gt=0)
    """Share in a mixture of several teachers, relative to the others'; see `objective.combine_teachers`."""
    sources: tuple[str, ...] = ()
    """Data sources that this teacher scores under `objective.combine_teachers=route`; see `data.fields.source`."""
    engine: Literal["vllm", "hf", "server"] = "vllm"
    """`vllm` and `hf` load the model; `server` asks a running `vllm serve`."""
    transport: Literal["hidden", "topk", "full", "sampled"] = "hidden"
    """What it says about a token: hidden states (exact), its `top_k` most probable ids, all of the vocabulary (exact),
    or the log-prob of that token alone. vllm: hidden, topk, sampled; hf: all; server: topk, sampled."""
    top_k: int = Field(default=64, ge=1)
    """Of `topk`."""
    temperature: float = Field(default=1.0, gt=0)
    """Softmax temperature of the teacher in the loss, each teacher its own; the student's is 1 (paper, section 4)."""
    verify_readout: bool = True
    """With `hidden`: before the run, compare the log-probs that the learner rebuilds with the engine's own. The vllm
    engine that gives hidden states has no LM head, so another one answers first, once for each model (the answers are
    kept in the cache folder); false spares that start, and compares the teacher with its own first answers only."""
    sentinel_steps: int = Field(default=50, ge=0)
    """Every so many steps the teacher's answers about golden sequences are compared again; 0 is never. Where they have
    changed, the run ends, and what it was trained on since the last good check is withdrawn."""
    score_cache_bytes: int = Field(default=2 << 30, ge=0)
    """Of the folder where answers about fixed completions are kept, for later epochs and runs; all teachers share it,
    and the answers used least recently go first. 0 keeps and looks up none. A server's answers are never kept: nothing
    here tells which weights it runs."""
    num_replicas: int = Field(default=1, ge=1, le=MAX_REPLICAS)
    """At the start; `gkd scale` changes the number of a running job."""
    min_replicas: int | None = Field(default=None, ge=1, le=MAX_REPLICAS)
    """Fewest that scaling goes down to; None means 1."""
    max_replicas: int | None = Field(default=None, ge=1, le=MAX_REPLICAS)
    """Most that scaling goes up to; set it (or min_replicas) to let queue pressure choose the number. None: 10,000
    for `gkd scale`, and no policy, or with min_replicas one that goes no higher than num_replicas or what was asked."""
    dtype: Dtype = "bfloat16"
    """Of the model that vllm or hf loads; a server has its own."""
    max_model_len: int = Field(default=1024, ge=2)
    """Longest prompt plus completion, tokens. vLLM, here or as a server, needs a model with one position more for topk
    and sampled."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """As the sampler's, over what the engine is given otherwise; `hf_overrides` key by key."""
    base_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/\s]+(/\S*)?$",
        description="an address such as http://host:8000/v1, or null",
    )
    """Of the server: what OpenAI clients call base_url, usually ending in /v1. It holds no password: it is shown in
    messages and written beside the run."""
    served_model_name: str | None = None
    """The name the server gives its model; None takes the only one it serves."""
    api_key_env: str | None = None
    """Environment variable that holds the server's API key, where teachers run; None sends none."""
    max_concurrent_requests: int = Field(default=32, ge=1)
    """Of one replica; the server queues what it cannot batch."""
    request_timeout_s: float = Field(default=120.0, gt=0, le=MAX_DURATION_S)
    """Of one attempt, answer included; below cluster.request_timeout_s, which all attempts have together."""
    max_retries: int = Field(default=12, ge=0)
    """After timeouts, lost or refused connections, 408, 409, 429 and 5xx; waits double from 0.5 s up to 8 s, so that
    12 outlast a restart of about a minute."""
    max_ongoing_requests: int | None = Field(default=None, ge=1, le=MAX_COUNT)
    """As the sampler's. None: twice the sequences that the engine scores at once (64 of hf, `max_num_seqs` of vllm,
    max_concurrent_requests of server)."""

    @property
    def num_at_once(self) -> int:
        """Sequences that one replica scores together."""
        if self.engine == "server":
            return self.max_concurrent_requests
        if self.engine == "hf":
            return _HF_TEACHER_SEQUENCES
        return int(self.engine_args.get("max_num_seqs") or _VLLM_MAX_NUM_SEQS)

    @field_validator("base_url", mode="before")
    @classmethod
    def _without_password(cls, value: Any) -> Any:
        """Before the pattern, whose message shows the value."""
        authority = str(value).partition("://")[2] or str(value)
        if "@" in re.split(r"[/?#]", authority, maxsplit=1)[0]:
            raise ValueError("must not hold a user name or password (before @); remove them, and use api_key_env")
        return value

    @model_validator(mode="after")
    def _fits_engine(self) -> "TeacherConfig":
        problems = []
        if self.transport not in TRANSPORTS_OF[self.engine]:
            problems.append(
                f"the {self.engine} engine has no `{self.transport}` transport; use transport="
                f"{' or '.join(TRANSPORTS_OF[self.engine])}, or engine=hf"
            )
        # A dtype stays when a recipe is pointed at a server: it says what a local engine would use.
        problems += without_effect(TEACHER_KEYS_OF, self, self.model_fields_set - {"dtype", "engine_args"})
        problems += self._reserved()
        if self.engine == "server" and self.base_url is None:
            problems.append("the server engine needs base_url; give it, as in base_url=http://host:8000/v1")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _reserved(self) -> list[str]:
        """What is wrong with engine_args."""
        problems = [
            f"engine_args.{name} is decided by {RESERVED_ENGINE_ARGS[name]}; remove it, and set "
            f"{RESERVED_ENGINE_ARGS[name]} instead"
            for name in sorted(self.engine_args.keys() & RESERVED_ENGINE_ARGS)
        ]
        others = {name: value for name, value in self.engine_args.items() if name not in RESERVED_ENGINE_ARGS}
        return problems + engine_args_problems(self.engine, others)

    @property
    def idle_keys(self) -> set[str]:
        """Keys that nothing reads under this engine and transport."""
        return idle_keys(TEACHER_KEYS_OF, self)

    @property
    def num_positions(self) -> int:
        """How many the model has to have: vLLM ends a request for log-probs with a generated token."""
        generates = self.engine != "hf" and self.transport in ("topk", "sampled")
        return self.max_model_len + (1 if generates else 0)
