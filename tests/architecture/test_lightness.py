"""Looking at the package, its configuration or its help costs no heavy import."""

import pkgutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import gkd_dist.config
from tests.architecture.import_graph import HEAVY

REPOSITORY = Path(__file__).parents[2]
CONFIG = [f"gkd_dist.config.{module.name}" for module in pkgutil.iter_modules(gkd_dist.config.__path__)]
HELP = """
sys.argv = ["gkd", "--help"]
from gkd_dist.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""


STRAYS = """
own = [module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "gkd_dist"]
assert all(name.startswith(package) for name in own), f"not of this checkout: {own}"
"""


def heavy_after(source: str) -> set[str]:
    """Heavy packages that a fresh interpreter has loaded after running `source` with the package of this checkout."""
    strays = f"package = {str(REPOSITORY / 'gkd_dist')!r}{STRAYS}"
    listing = f"{strays}\nprint('LOADED', *sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{source}\n{listing}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
    return set(line.split()[1:])


@pytest.mark.parametrize(
    "source",
    [
        "import gkd_dist",
        "import gkd_dist.types, gkd_dist.errors, gkd_dist.interfaces",
        "import " + ", ".join(CONFIG),
    ],
    ids=["package", "contracts", "config"],
)
def test_import_is_light(source: str) -> None:
    assert heavy_after(source) == set()


def test_help_is_light(record_property: Callable[[str, object], None]) -> None:
    """What keeps `gkd --help` under a second is what it leaves out; its time is recorded, not judged."""
    start = time.perf_counter()
    assert heavy_after(HELP) == set()
    record_property("help_s", round(time.perf_counter() - start, 3))


def test_the_check_sees_a_heavy_import() -> None:
    assert heavy_after("sys.modules['torch'] = sys") == {"torch"}
