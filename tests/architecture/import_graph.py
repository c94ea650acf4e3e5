"""The floors of the package, and what of a package tree breaks them, read from the syntax trees alone.

A unit is a direct child of the package: a folder or a single module. A unit imports from lower floors and from itself.
Every import counts, also one inside a function, under TYPE_CHECKING, or by `importlib.import_module("name")`.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "gkd_dist"
ROOT = "__init__"
"""The unit of the package's own `__init__.py`."""

FLOORS = {
    **dict.fromkeys(
        (
            ROOT,
            "types",
            "targets",
            "checks",
            "array_faults",
            "errors",
            "serial",
            "process",
            "fault_points",
            "closing",
            "disk",
            "stop_signals",
            "divergences",
        ),
        0,
    ),
    **dict.fromkeys(("config", "interfaces"), 1),
    **dict.fromkeys(
        ("data", "replay", "wire", "metrics", "testing", "supervision", "checkpoints", "runs", "fleet", "planning"), 2
    ),
    **dict.fromkeys(("learners", "samplers", "teachers", "rewards", "models", "weights", "engines", "evaluation"), 3),
    **dict.fromkeys(("pipeline", "cluster", "experiments"), 4),
    **dict.fromkeys(
        (
            "cli",
            "operations",
            "distillation",
            "evaluating",
            "eval_preparation",
            "experimentation",
            "scaling",
            "simulation",
            "inspection",
            "reporting",
            "reports",
            "preparation",
            "build",
            "local",
            "distributed",
            "recipes",
            "__main__",
        ),
        5,
    ),
}

SHARED = frozenset({ROOT, "types", "targets", "checks", "array_faults", "errors", "wire", "weights", "engines"})
"""Open to neighbours of the same floor: the bottom of the house; on F2 the format of what is sent or kept; on F3 the
transport whose two ends live in the learner and in the samplers, and what engines of several roles share."""
DOORS = 5
"""The doors open into each other: `cli` starts `local` and `distributed`, which both ask `build`."""

_F2 = frozenset({"numpy", "pydantic", "yaml"})
_F3 = frozenset(
    {"numpy", "torch", "transformers", "peft", "safetensors", "gguf", "datasets", "huggingface_hub", "xxhash"}
)
_DOOR = frozenset({"numpy", "pydantic", "yaml", "typer", "click", "rich", "transformers", "datasets"})

OUTSIDE: dict[str, frozenset[str]] = {
    ROOT: frozenset(),
    "types": frozenset({"numpy"}),
    "targets": frozenset({"numpy"}),
    "array_faults": frozenset({"numpy"}),
    "checks": frozenset(),
    "errors": frozenset(),
    "serial": frozenset(),
    "process": frozenset(),
    "fault_points": frozenset(),
    "disk": frozenset(),
    "closing": frozenset(),
    "fleet": frozenset(),
    "stop_signals": frozenset(),
    "divergences": frozenset({"numpy", "torch"}),
    "config": frozenset({"pydantic", "pydantic_core", "yaml"}),
    "interfaces": frozenset({"numpy"}),
    "data": _F2 | {"datasets", "pyarrow"},
    "replay": _F2 | {"msgpack", "xxhash"},
    "wire": _F2 | {"msgpack", "xxhash"},
    "metrics": _F2 | {"prometheus_client", "rich"},
    "testing": _F2,
    "supervision": _F2,
    "runs": _F2,
    "planning": _F2,
    "checkpoints": _F2 | {"xxhash"},
    **{unit: _F3 for unit, floor in FLOORS.items() if floor == 3},
    "pipeline": frozenset({"numpy"}),
    "cluster": frozenset({"numpy", "ray", "psutil"}),
    "experiments": _F2,
    **{unit: _DOOR for unit, floor in FLOORS.items() if floor == DOORS},
}
"""What each unit may import beyond the standard library. One more package is a decision: it is made here."""

OUTSIDE_OF_FILE = {
    "data/rendering.py": frozenset({"transformers", "jinja2"}),
    "reports/page.py": frozenset({"jinja2"}),
    "divergences/triton_rows.py": frozenset({"triton"}),
    "experiments/drawing.py": frozenset({"matplotlib"}),
    "experiments/gaussian_fit.py": frozenset({"torch"}),
    "cluster/dashboard.py": frozenset({"requests"}),
    "cluster/job_log.py": frozenset({"aiohttp"}),
    "cluster/jobs.py": frozenset({"requests"}),
    "engines/vllm_engine.py": frozenset({"vllm"}),
    "metrics/tensorboard_sink.py": frozenset({"tensorboard"}),
    "metrics/trackio_sink.py": frozenset({"trackio"}),
    "metrics/wandb_sink.py": frozenset({"wandb"}),
    "operations/doctor.py": frozenset({"psutil"}),
    "models/vocabulary.py": frozenset({"tokenizers"}),
    "samplers/vllm_sampler.py": frozenset({"vllm"}),
    "evaluation/bleu.py": frozenset({"sacrebleu"}),
    "evaluation/intervals.py": frozenset({"scipy"}),
    "evaluation/rouge.py": frozenset({"rouge_score"}),
    "teachers/answers.py": frozenset({"msgspec"}),
    "teachers/endpoint.py": frozenset({"openai"}),
    "teachers/server_check.py": frozenset({"openai"}),
    "teachers/server_teacher.py": frozenset({"openai"}),
    "teachers/vllm_log_prob_teacher.py": frozenset({"vllm"}),
    "teachers/vllm_teacher.py": frozenset({"vllm"}),
    "weights/vllm_adapters.py": frozenset({"vllm"}),
    "weights/vllm_direct_reload.py": frozenset({"vllm"}),
    "weights/vllm_lone_adapter.py": frozenset({"vllm"}),
    "weights/vllm_receiver.py": frozenset({"vllm"}),
}
"""What single modules may import on top of their unit."""

HEAVY = frozenset({"torch", "ray", "vllm", "transformers", "datasets"})
"""Seconds to import: the doors may name them inside functions only."""


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module: absolute dotted name, line, and whether a function body holds it."""

    name: str
    line: int
    in_function: bool

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


def imports_of(path: Path, root: Path) -> list[Import]:
    """All imports of one module; `root` is the folder of the package.

    `from a import b` counts as `a.b`, because `b` may be a module.
    """
    package = [PACKAGE, *path.relative_to(root).parent.parts]
    return list(_imports(ast.parse(path.read_text(encoding="utf-8"), str(path)), package, in_function=False))


def _imports(node: ast.AST, package: list[str], in_function: bool) -> Iterator[Import]:
    match node:
        case ast.Import(names=aliases):
            names = [alias.name for alias in aliases]
        case ast.ImportFrom(module=module, names=aliases, level=level):
            kept = package[: len(package) - level + 1] if level else []
            prefix = ".".join([*kept, *([module] if module else [])])
            names = [f"{prefix}.{alias.name}" for alias in aliases]
        case ast.Call(
            func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            names = [name]
        case _:
            names = []
    for name in names:
        yield Import(name, getattr(node, "lineno", 0), in_function)
    inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, package, inside)


def violations(root: Path) -> list[str]:
    """One line per broken rule in the package at `root`; empty when the house stands."""
    lines = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        unit = relative.parts[0].removesuffix(".py")
        if unit not in FLOORS:
            lines.append(f"{relative}: `{unit}` has no floor; put it into an existing folder, or into FLOORS")
            continue
        for found in imports_of(path, root):
            problem = _inside(unit, found) if found.top == PACKAGE else _outside(unit, relative.as_posix(), found)
            if problem:
                lines.append(f"{relative}:{found.line}: {problem}")
    return lines


def _inside(unit: str, found: Import) -> str | None:
    target = [*found.name.split("."), ROOT][1]
    if target not in FLOORS:  # an attribute of the package, such as __version__
        target = ROOT
    if target == unit or FLOORS[target] < FLOORS[unit]:
        return None
    if FLOORS[target] == FLOORS[unit] and (target in SHARED or FLOORS[unit] == DOORS):
        return None
    return f"F{FLOORS[unit]} `{unit}` imports F{FLOORS[target]} `{target}` ({found.name})"


def _outside(unit: str, relative: str, found: Import) -> str | None:
    if found.top in sys.stdlib_module_names:
        return None
    if found.top not in OUTSIDE[unit] | OUTSIDE_OF_FILE.get(relative, frozenset()):
        return f"`{unit}` must not import {found.top}"
    if FLOORS[unit] == DOORS and found.top in HEAVY and not found.in_function:
        return f"a door imports {found.top} inside a function only"
    return None
