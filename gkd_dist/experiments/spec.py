"""An experiment as data: axes, stages, evaluations, and what is made of the numbers.

A *stage* is one command (`gkd run RECIPE`, or another one) for every combination of the axes it is `over`, or a model
that is there already and is evaluated. Texts may hold `{name}`: a setting, the label of an axis, `{seed}`,
`{stage:NAME}`, which is what an earlier stage left at the same place of the axes, or `{recipe:KEY}`, a key of the
recipe that the setting `task` names. A text that is nothing but `{name}` becomes the value itself, number or not.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from gkd_dist.config.base import Strict

Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]*$")]
"""Part of the name of a folder; `_` stands between labels."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Scalar = bool | int | float | str
Number = float | str
"""A number, or a text that is `{setting}`."""
Selection = dict[str, Label | tuple[Label, ...]]
"""Rows of the table: label, or labels, by axis, or by `stage`, `seed` and `evaluation`."""

SEED = "seed"
RESERVED = frozenset({SEED, "stage", "evaluation", "metric", "output", "run"})


class AxisValue(Strict):
    """One place on an axis."""

    value: Scalar | None = None
    """What `{axis}` stands for; None means the label."""
    settings: dict[Name, Scalar] = Field(default_factory=dict)
    """More names for texts of stages that are over this axis."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Keys of the recipe; they win over the stage's."""
    title: str | None = None
    """In plots and tables; None means the label."""


class Evaluation(Strict):
    """One call of `gkd eval` on what a stage has trained."""

    task: str
    data: str
    options: dict[str, Any] = Field(default_factory=dict)
    """More keys of its configuration, such as `decoding.num_beams`."""
    sweep: dict[str, tuple[Scalar, ...]] = Field(default_factory=dict)
    """At most one key with several values: one evaluation each, called NAME-VALUE."""

    @field_validator("sweep")
    @classmethod
    def _single(cls, sweep: dict[str, tuple[Scalar, ...]]) -> dict[str, tuple[Scalar, ...]]:
        if len(sweep) > 1:
            raise ValueError("sweeps one option; give the others as evaluations of their own")
        return sweep


class Stage(Strict):
    """Runs of one kind."""

    over: tuple[Name, ...] = ()
    """Axes, in the order of the names of runs; `seed` is one."""
    recipe: str | None = None
    """As on the command line of `gkd run`."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Keys of the recipe."""
    asked: dict[str, Any] = Field(default_factory=dict)
    """Keys that command line, scale or `changes` give: they win over those of the axes."""
    command: tuple[str, ...] | None = None
    """Arguments of `gkd`, where it is not `gkd run`; `{output}` is where to write."""
    output: Label | None = None
    """File or folder, in the folder of the run, that `command` writes."""
    model: str | None = None
    """A folder or a name on the hub: nothing is trained, and `{stage:NAME}` is this model."""
    skip: tuple[Selection, ...] = ()
    """Combinations that are left out."""
    evaluate: tuple[Label, ...] = ()
    """Names of evaluations."""
    num_cpus: Number = 1
    """That a run keeps busy; as many threads."""
    num_gpus: Number = 0
    step_cpu_s: Number = 1.0
    """Estimate of the CPU time of one train step, s; measured ones take its place."""
    fixed_cpu_s: Number = 10.0
    """Estimate of what a run costs beside its steps, its evaluations included, s."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(each is not None for each in (self.command, self.recipe, self.model)) != 1:
            raise ValueError("a stage has a recipe, or a command with its output, or a model")
        if (self.command is None) != (self.output is None):
            raise ValueError("command and output belong together; give both, or a recipe")
        if self.command is not None and (self.overrides or self.asked or self.evaluate):
            raise ValueError("a command has no overrides or evaluate; they belong to a recipe")
        if self.model is not None and (self.overrides or self.asked):
            raise ValueError("a model has no overrides; they belong to a recipe")
        return self


class Plot(Strict):
    """A picture of one metric, as means over seeds with confidence intervals."""

    kind: Literal["bars", "lines", "frontier", "grid"]
    """`bars` and `lines` show the metric over `x`, one colour for each of `series`; `frontier` shows it over
    `x_metric`, with the points of `x` joined in the order of the axis, where the curve of a claim goes from the lowest
    `x_metric` to the highest; `grid` is a coloured table of `series` (rows) and `x` (columns)."""
    title: str
    metric: str
    x_metric: str | None = None
    """Of the same evaluation as the metric."""
    x: str
    x_title: str | None = None
    """Under the horizontal axis; None means the name of `x`."""
    series: str | None = None
    panels: str | None = None
    where: Selection = Field(default_factory=dict)
    relative_to: Selection | None = None
    """Show the difference to the mean of these rows at the same place of the other axes."""
    reference: Selection | None = None
    """A horizontal line: the mean of these rows."""
    x_values: dict[Label, float] = Field(default_factory=dict)
    """Where labels of `x` are, in `lines`; otherwise they are numbers themselves, or one step apart."""

    @model_validator(mode="after")
    def _metric_of_frontier(self) -> Self:
        if (self.kind == "frontier") != (self.x_metric is not None):
            raise ValueError("x_metric belongs to kind=frontier, which needs it")
        if self.kind == "grid" and self.series is None:
            raise ValueError("kind=grid needs series, its rows")
        return self


class Claim(Strict):
    """That one thing has a higher metric than another, tested at every place of `per`."""

    text: str
    metric: str
    above: Selection
    below: Selection
    where: Selection = Field(default_factory=dict)
    per: tuple[Name, ...] = ()
    x: Name | None = None
    """Axis with the points of a curve on each side: curves are compared where both reach the same `x_metric`."""
    x_metric: str | None = None
    """Of the same evaluation as the metric."""

    @model_validator(mode="after")
    def _curve(self) -> Self:
        if (self.x is None) != (self.x_metric is None):
            raise ValueError("x and x_metric belong together; give both, or none")
        return self


class Ranking(Strict):
    """A table of everything that `where` selects, best first, for every place of `per`."""

    title: str
    metric: str
    where: Selection = Field(default_factory=dict)
    per: tuple[Name, ...] = ()


class GaussianFit(Strict):
    """Single Gaussians fitted to a mixture of Gaussians under several divergences."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]
    betas: tuple[float, ...]
    """Of JSD(beta); forward and reverse KL are always there."""

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if not len(self.weights) == len(self.means) == len(self.stds) >= 1:
            raise ValueError("weights, means and stds need one value for each component")
        if min(*self.weights, *self.stds) <= 0:
            raise ValueError("weights and stds must be above 0")
        if any(not 0 < beta < 1 for beta in self.betas):
            raise ValueError("betas must be above 0 and below 1")
        return self


class Experiment(Strict):
    """What a file of this folder holds, after command line and scale have been applied."""

    title: str
    shows: str = ""
    """What the paper shows there."""
    settings: dict[Name, Scalar | None] = Field(default_factory=dict)
    """`key=value` on the command line; null must be given."""
    scales: dict[Label, dict[str, Any]] = Field(default_factory=dict)
    """Other values of settings, of `seeds`, `axes.NAME`, `STAGE.KEY` or `evaluations.NAME.KEY`, by the name that
    --scale takes; the first is default."""
    axes: dict[Name, dict[Label, AxisValue]] = Field(default_factory=dict)
    left_out: dict[Name, tuple[Label, ...]] = Field(default_factory=dict)
    """Labels of axes that a scale or the command line has taken away; plots and claims may mention them still."""
    seeds: tuple[int, ...] = (0,)
    evaluations: dict[Label, Evaluation] = Field(default_factory=dict)
    stages: dict[Label, Stage] = Field(default_factory=dict)
    given: dict[Label, str] = Field(default_factory=dict)
    """`stage=PATH` on the command line: what a stage would leave is there already, and is not made again."""
    plots: dict[Label, Plot] = Field(default_factory=dict)
    rankings: tuple[Ranking, ...] = ()
    claims: tuple[Claim, ...] = ()
    fit: GaussianFit | None = None
    """Instead of stages."""

    @field_validator("axes", mode="before")
    @classmethod
    def _short_axes(cls, axes: Any) -> Any:
        """A list of values is an axis too, and nothing below a label means that the label says it all."""
        if not isinstance(axes, dict):
            return axes
        return {name: _long_axis(values) for name, values in axes.items()}

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        problems = [f"axes.{name}: this name is taken; choose another one" for name in self.axes.keys() & RESERVED]
        problems += [f"settings.{name}: an axis has this name" for name in self.settings.keys() & self.axes.keys()]
        known = {*self.axes, SEED}
        for name, stage in self.stages.items():
            problems += [f"stages.{name}.over: no axis is called {axis}" for axis in stage.over if axis not in known]
            problems += [
                f"stages.{name}.evaluate: no evaluation is called {each}"
                for each in stage.evaluate
                if each not in self.evaluations
            ]
        if (self.fit is None) == (not self.stages):
            problems.append("an experiment has stages, or fit")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            problems.append("seeds: give at least one, and each once")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def title_of(self, axis: str, label: str) -> str:
        """What people read."""
        value = self.axes.get(axis, {}).get(label)
        return label if value is None or value.title is None else value.title


def _long_axis(values: Any) -> Any:
    if isinstance(values, list | tuple):
        return {str(value): {"value": value} for value in values}
    if isinstance(values, dict):
        return {label: {} if below is None else below for label, below in values.items()}
    return values
