"""The floors hold in the shipped package, and the check that says so sees every kind of breach."""

import tomllib
from pathlib import Path

import pytest

from tests.architecture.import_graph import FLOORS, OUTSIDE, OUTSIDE_OF_FILE, violations

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "gkd_dist"


def plant(root: Path, relative: str, source: str) -> Path:
    path = root / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return root


def test_floors_hold() -> None:
    assert violations(PACKAGE) == []


def test_the_rules_name_what_is_shipped() -> None:
    """A folder that moved or was renamed must not leave its rules behind."""
    shipped = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert shipped - {"__pycache__", "recipes", "py.typed"} <= set(FLOORS)
    assert set(OUTSIDE) == set(FLOORS)
    assert {name.partition("/")[0] for name in OUTSIDE_OF_FILE} <= shipped


@pytest.mark.parametrize(
    ("relative", "source", "message"),
    [
        ("types.py", "import torch", "`types` must not import torch"),
        ("types.py", "from gkd_dist.config import run", "F0 `types` imports F1 `config`"),
        ("errors.py", "from gkd_dist.divergences import jsd", "F0 `errors` imports F0 `divergences`"),
        ("config/run.py", "def f():\n    import transformers", "`config` must not import transformers"),
        ("data/mixture.py", "import transformers", "`data` must not import transformers"),
        ("data/mixture.py", "from gkd_dist.replay.buffer import X", "F2 `data` imports F2 `replay`"),
        ("data/mixture.py", "from ..replay import buffer", "F2 `data` imports F2 `replay`"),
        ("data/mixture.py", "from .. import pipeline", "F2 `data` imports F4 `pipeline`"),
        ("data/mixture.py", "from gkd_dist import pipeline", "F2 `data` imports F4 `pipeline`"),
        ("replay/buffer.py", "import torch.nn", "`replay` must not import torch"),
        ("samplers/hf_sampler.py", "import vllm", "`samplers` must not import vllm"),
        ("samplers/vllm_sampler.py", "import ray", "`samplers` must not import ray"),
        ("samplers/vllm_sampler.py", "import gkd_dist.learners.step", "F3 `samplers` imports F3 `learners`"),
        ("pipeline/scoring.py", "import importlib\nimportlib.import_module('ray')", "`pipeline` must not import ray"),
        (
            "pipeline/scoring.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
            "`pipeline` must not import torch",
        ),
        (
            "pipeline/scoring.py",
            "async def f():\n    from gkd_dist.cluster import x",
            "F4 `pipeline` imports F4 `cluster`",
        ),
        ("cluster/actors.py", "import torch", "`cluster` must not import torch"),
        ("distributed.py", "def f():\n    import ray", "`distributed` must not import ray"),
        ("cli/run.py", "import transformers", "a door imports transformers inside a function only"),
        ("data/mixture.py", "import requests", "`data` must not import requests"),
        ("sampling.py", "", "`sampling` has no floor"),
    ],
)
def test_a_planted_breach_is_found(tmp_path: Path, relative: str, source: str, message: str) -> None:
    (found,) = violations(plant(tmp_path, relative, source))
    assert found.startswith(relative)
    assert message in found


@pytest.mark.parametrize(
    ("relative", "source"),
    [
        ("divergences/jsd.py", "import torch\nfrom gkd_dist.errors import GkdError\nfrom gkd_dist.types import Source"),
        ("data/rendering.py", "import transformers\nfrom gkd_dist.data.pairs import X\nfrom . import pairs"),
        ("samplers/vllm_sampler.py", "import torch, vllm.engine\nfrom gkd_dist.wire import codec"),
        ("cluster/actors.py", "import ray\nfrom gkd_dist.interfaces import Sampler"),
        ("cli/run.py", "def run():\n    import transformers\n    from gkd_dist.distributed import start"),
        ("wire/codec.py", "from gkd_dist import __version__\nimport json"),
    ],
)
def test_an_allowed_import_passes(tmp_path: Path, relative: str, source: str) -> None:
    assert violations(plant(tmp_path, relative, source)) == []


def test_the_type_checker_is_strict_on_floors_0_to_2() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["mypy"]
    checked = {Path(name).relative_to("gkd_dist").parts[0].removesuffix(".py") for name in settings["files"]}
    assert settings["strict"] is True
    assert {unit for unit, floor in FLOORS.items() if floor <= 2 and unit != "__init__"} <= checked
