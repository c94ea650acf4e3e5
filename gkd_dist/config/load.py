"""Recipe or file plus overrides -> RunConfig; RunConfig -> text (floor F1).

Precedence: defaults < what a file extends < the file < overrides. Every problem is found before any is reported.

    config = load_run_config("quickstart", ["learner.max_steps=100", "data.path=train.jsonl"])
"""

from collections.abc import Sequence

from gkd_dist.config.combination import MIXTURES
from gkd_dist.config.models import TeacherConfig
from gkd_dist.config.overrides import apply_overrides
from gkd_dist.config.recipes import read_recipe
from gkd_dist.config.run import RunConfig
from gkd_dist.config.validation import validate
from gkd_dist.config.yaml_text import format_yaml
from gkd_dist.errors import ConfigError


class InvalidError(ConfigError):
    """A configuration that breaks rules, or an override that cannot be applied.

    Args:
        config: what there is of it, so that the files it names can be looked for too; None where sections are wrong.
    """

    def __init__(self, problems: Sequence[str], config: RunConfig | None = None) -> None:
        super().__init__(problems)
        self.config = config


def load_run_config(recipe: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The checked configuration of one run.

    Args:
        recipe: name of a packaged recipe (`gkd recipes` lists them), path of a YAML file, or several joined by `+`.
        overrides: `key.path=value` each, the value in YAML; a later one wins. A mapping replaces the whole section.

    Raises:
        InvalidError: with all problems, one line each.
        ConfigError: there is nothing that could be checked.
    """
    problems: list[str] = []
    tree = read_recipe(recipe, problems)
    apply_overrides(tree, overrides, problems)
    config, invalid = validate(tree)
    problems += invalid
    if problems or config is None:
        raise InvalidError([_one_line(problem) for problem in dict.fromkeys(problems)], config)
    return config


def dump_run_config(config: RunConfig) -> str:
    """YAML of the resolved configuration, every value that has an effect; it loads back to an equal one."""
    objective = config.objective
    idle = objective.idle_keys | config.idle_keys["objective"].keys()
    idle_of_teacher = set()
    if objective.combine_teachers is None:
        idle.add("combine_teachers")
    if objective.combine_teachers != "route":
        idle_of_teacher.add("sources")
    if objective.combine_teachers not in MIXTURES:
        idle_of_teacher.add("weight")
    exclude = {
        "objective": idle,
        "cluster": set(config.idle_keys["cluster"]),
        "weights": set(config.idle_keys["weights"]),
        "metrics": set(config.idle_keys["metrics"]),
        "supervision": set(config.idle_keys["supervision"]),
        **({"reward": config.reward.idle_keys} if config.reward else {}),
    }
    tree = config.model_dump(mode="json", exclude=exclude)
    unused = [key for key in ("teacher", "teachers") if tree[key] is None]
    for key in unused:
        del tree[key]
    for name, teacher in config.named_teachers.items():
        shown = tree["teachers"][name] if "teachers" in tree else tree["teacher"]
        for key in idle_of_teacher | teacher.idle_keys:
            if getattr(teacher, key) == TeacherConfig.model_fields[key].get_default(call_default_factory=True):
                del shown[key]  # a server's dtype stays, where it was given: it is allowed, and loads back
    return format_yaml(tree)


def _one_line(problem: str) -> str:
    """Keys may hold line breaks and control characters; messages may not."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in problem)
