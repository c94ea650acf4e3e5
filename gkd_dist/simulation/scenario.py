"""What is simulated: who is there, how fast each is, what fails. All rates are given; nothing is measured here."""

import math
from dataclasses import dataclass, field

from gkd_dist.planning.controller import DriverCosts
from gkd_dist.planning.spreading import spread_s


@dataclass(frozen=True, slots=True)
class SamplerRates:
    """One sampler: a batch of running sequences that each get one token per decoding step."""

    max_running: int = 4
    """Sequences at once; others wait in the sampler."""
    step_s: float = 0.006
    """Of a decoding step, whatever its batch."""
    step_per_sequence_s: float = 0.001
    """Of a decoding step, on top, for each running sequence."""
    prompt_token_cost: float = 0.02
    """Of a prompt's token, in decoded tokens."""
    median_tokens: float = 600.0
    """Of an answer; lengths are log-normal."""
    sigma: float = 0.7
    """Of the logarithm of lengths; 0: all are the same."""
    max_tokens: int = 1536
    """Longer answers are cut."""
    load_s: float = 0.3
    """Nothing is decoded for so long while new weights are loaded; their way to the sampler comes before."""

    def step_of(self, num_running: int) -> float:
        """Seconds of a decoding step."""
        return self.step_s + self.step_per_sequence_s * num_running

    @property
    def mean_tokens(self) -> float:
        """Of an answer, after the cut (partial expectation of a log-normal distribution)."""
        if self.sigma == 0:
            return min(self.median_tokens, float(self.max_tokens))
        place = math.log(self.max_tokens / self.median_tokens) / self.sigma
        mean = self.median_tokens * math.exp(self.sigma**2 / 2)
        return mean * _normal(place - self.sigma) + self.max_tokens * (1 - _normal(place))

    def sequences_per_s(self, prompt_tokens: int) -> float:
        """Of a sampler that always runs as many as it can and loads no weights."""
        work = self.mean_tokens + self.prompt_token_cost * prompt_tokens
        return self.max_running / (self.step_of(self.max_running) * work)


@dataclass(frozen=True, slots=True)
class TeacherRates:
    tokens_per_s: float = 3000.0
    """Of prompts and answers; one request after the other."""


@dataclass(frozen=True, slots=True)
class LearnerRates:
    step_s: float = 6.0
    """Of a train step, whatever its batch: the learner's ranks are thought to grow with it."""
    gather_s: float = 0.5
    """Until the weights of a step may be read."""
    num_calls: int = 2
    """Of a step, that the controller makes: half of them before it trains, half before it gathers."""


@dataclass(frozen=True, slots=True)
class WeightRates:
    num_bytes: float = 3.4e9
    learner_bytes_per_s: float = 25e9
    """Of the learner's link; the nodes that read at once share it."""
    node_bytes_per_s: float = 25e9
    """Of the link of each node with samplers."""
    samplers_per_node: int = 8
    """Which share what it reads, as those of a node with eight GPUs do: it reads each version once. None is on the
    learner's own node."""
    fan_out: int = 0
    """0: every node reads from the learner. Else a tree, in which each sends to so many others."""
    num_pieces: int = 54
    """Buckets of the weights: a node of the tree sends one on before it has the next."""

    def __post_init__(self) -> None:
        if self.samplers_per_node < 1:
            raise ValueError(f"samplers_per_node must be at least 1, got {self.samplers_per_node}")

    def num_nodes(self, num_samplers: int) -> int:
        """With samplers, where one after the other is filled."""
        return -(-num_samplers // self.samplers_per_node)

    def spread_s(self, num_nodes: int) -> float:
        """Until the last of so many that ask at once has all of it."""
        return spread_s(
            self.num_bytes,
            num_nodes,
            learner_bytes_per_s=self.learner_bytes_per_s,
            reader_bytes_per_s=self.node_bytes_per_s,
            fan_out=self.fan_out,
            num_pieces=self.num_pieces,
        )


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """When actors fail: at random, each by itself, as often when idle as when busy."""

    mtbf_s: float = math.inf
    """Mean time between failures of one sampler or teacher, from the moment it runs."""
    startup_s: float = 60.0
    """From the order to start an actor until it answers."""
    first_startup_s: float = 0.0
    """The same before the run, which is not what is looked at."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """Limits of the policy that moves the number of samplers."""

    first: int
    maximum: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run. A shard is a controller with its own replay and its share of samplers, teachers and batch; all shards
    make each train step together."""

    num_samplers: int
    num_teachers: int
    batch_size: int
    max_steps: int
    max_staleness: int = 4
    num_generations: int = 1
    """Sequences of a prompt, which go round as one request."""
    num_shards: int = 1
    prompt_tokens: int = 200
    seed: int = 0
    sampler: SamplerRates = field(default_factory=SamplerRates)
    teacher: TeacherRates = field(default_factory=TeacherRates)
    learner: LearnerRates = field(default_factory=LearnerRates)
    weights: WeightRates = field(default_factory=WeightRates)
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    driver: DriverCosts = field(default_factory=DriverCosts)
    scaling: Scaling | None = None
    """None: the numbers stay."""
    whole_steps: bool = False
    """Algorithm 1: a step is sampled and scored as one; needs max_staleness 0."""
    has_housekeeping: bool = True
    """The status file, the metrics of every second and the scaling policy, as in a real run."""
    probe_interval_s: float = 5.0
    request_timeout_s: float = 600.0
    max_restarts: int = 5
    max_ongoing_requests: float | None = None
    """Of one sampler or teacher; infinity gives out all at once. None: twice what it works on at once."""

    def __post_init__(self) -> None:
        shared = (self.num_samplers, self.num_teachers, self.batch_size)
        if any(number % self.num_shards for number in shared):
            raise ValueError(
                f"samplers, teachers and batch must be multiples of {self.num_shards} shards, got {shared}"
            )
        if self.scaling is not None and self.num_shards > 1:
            raise ValueError(
                f"scaling goes with one shard, got {self.num_shards}: samplers of others share their nodes"
            )

    @classmethod
    def of_stages(
        cls, sampling_s: float, scoring_s: float, learning_s: float, *, max_steps: int, max_staleness: int
    ) -> "Scenario":
        """A small ring without any chance in it, whose step takes these seconds in each stage and none elsewhere: 8
        answers of 50 tokens to prompts of 10, by two samplers and two teachers, one at a time each."""
        each, prompt_tokens, tokens = 4, 10, 50
        return cls(
            num_samplers=2,
            num_teachers=2,
            batch_size=2 * each,
            max_steps=max_steps,
            max_staleness=max_staleness,
            prompt_tokens=prompt_tokens,
            sampler=SamplerRates(
                max_running=1,
                step_s=sampling_s / (each * tokens),
                step_per_sequence_s=0.0,
                prompt_token_cost=0.0,
                median_tokens=tokens,
                sigma=0,
                load_s=0.0,
            ),
            teacher=TeacherRates(tokens_per_s=each * (prompt_tokens + tokens) / scoring_s),
            learner=LearnerRates(step_s=learning_s, gather_s=0.0),
            weights=WeightRates(num_bytes=0.0),
            has_housekeeping=False,
        )

    def max_ongoing(self, num_at_once: int) -> float:
        """Requests in the hands of an actor that works on so many sequences at once: by default as in a run
        (`RunConfig.max_ongoing_requests`)."""
        if self.max_ongoing_requests is not None:
            return self.max_ongoing_requests
        return -(-2 * num_at_once // self.num_generations)

    @property
    def limits_per_s(self) -> dict[str, float]:
        """Sequences per second that each role could carry alone: arithmetic of the rates."""
        sequence_tokens = self.prompt_tokens + self.sampler.mean_tokens
        return {
            "samplers": self.num_samplers * self.sampler.sequences_per_s(self.prompt_tokens),
            "teachers": self.num_teachers * self.teacher.tokens_per_s / sequence_tokens,
            "learner": self.batch_size / (self.learner.step_s + self.learner.gather_s),
        }

    @property
    def ideal_per_s(self) -> float:
        """Sequences per second of the slowest role: what a ring that costs nothing would reach."""
        return min(self.limits_per_s.values())


def _normal(place: float) -> float:
    """Cumulative distribution of the standard normal."""
    return 0.5 * (1 + math.erf(place / math.sqrt(2)))
