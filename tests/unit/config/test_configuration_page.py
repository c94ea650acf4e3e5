"""docs/configuration.md says what the models say, about every key."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gkd_dist.config.base import Strict
from gkd_dist.config.load import load_run_config
from gkd_dist.config.reference import PARTS, keys, reference, unit

REPOSITORY = Path(__file__).parents[3]
PAGE = REPOSITORY / "docs" / "configuration.md"


def paths(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from paths(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run `make reference`"


@pytest.mark.parametrize("root", [part[1] for part in PARTS], ids=lambda root: root.__name__)
def test_every_key_says_what_it_means(root: type[Strict]) -> None:
    assert [key for key, _, meaning in keys(root) if not meaning] == []


def test_every_key_of_a_resolved_recipe_is_on_the_page() -> None:
    """The keys as pydantic writes them, read by nothing that makes the page."""
    text = PAGE.read_text(encoding="utf-8")
    written = list(paths(load_run_config("quickstart").model_dump(mode="json")))
    assert len(written) > 100
    assert [path for path in written if f"| `{path}`" not in text and f"### `{path}`" not in text] == []


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("learner.max_steps", "| a whole number of at least 0 | `20` |"),
        ("objective.beta", "| a number above 0 and below 1 | `0.5` |"),
        ("supervision.stall_timeout_s", "| a number above 0 and at most 2592000 | `900.0` | seconds |"),
        ("student.model", "| text | - |"),
        ("objective.student_fraction", "(also `lmbda`, `lambda`) | a number between 0 and 1 | `0.5` |"),
        ("sampler.max_model_len", "| a whole number of at least 2 | `1024` | tokens |"),
        ("teacher.top_k", "| a whole number of at least 1 | `64` |  |"),
    ],
)
def test_a_row_has_type_limits_default_and_unit(row: str, told: str) -> None:
    (line,) = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{row}`")]
    assert told in line


def test_the_keys_of_the_readme_are_on_the_page_with_the_same_defaults() -> None:
    head = "| key | default | means |\n| --- | --- | --- |\n"
    _, _, rest = (REPOSITORY / "README.md").read_text(encoding="utf-8").partition(head)
    told = re.findall(r"^\| `(\S+)` \| (\S+) \|", rest.partition("\n\n")[0], re.MULTILINE)
    rows = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    known = {re.findall(r"`(\S+)`", row[0])[0]: row[2] for row in rows if len(row) > 2}
    assert len(told) == 10
    assert [(key, default) for key, default in told if known.get(key) != default] == []


@pytest.mark.parametrize(("name", "told"), [("hedge_after_s", "seconds"), ("s", ""), ("seed", ""), ("bytes", "")])
def test_a_unit_is_the_ending_of_a_name(name: str, told: str) -> None:
    assert unit(name) == told
