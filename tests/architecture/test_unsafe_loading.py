"""Nothing in the package reads bytes in a way that can run code."""

import ast
from pathlib import Path

import pytest

from tests.architecture.import_graph import imports_of

PACKAGE = Path(__file__).parents[2] / "gkd_dist"
CODE_CARRIERS = frozenset({"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "msgpack_numpy"})
SAFE_LOADERS = frozenset({"yaml.SafeLoader", "yaml.CSafeLoader"})


def unsafe_calls(tree: ast.Module) -> list[str]:
    """Source of every call that may run code found in what it reads."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    safe_loaders = {each.name for each in classes if any(ast.unparse(base) in SAFE_LOADERS for base in each.bases)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [ast.unparse(call) for call in calls if _is_unsafe(call, SAFE_LOADERS | safe_loaders)]


def _is_unsafe(call: ast.Call, safe_loaders: frozenset[str]) -> bool:
    name = ast.unparse(call.func)
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name == "torch.load":
        return options.get("weights_only") != "True"
    if name in {"yaml.load", "yaml.load_all"}:
        return options.get("Loader") not in safe_loaders
    if name.startswith(("yaml.unsafe_", "yaml.full_")):
        return True
    return options.get("allow_pickle", "False") != "False"


def test_no_module_imports_a_code_carrying_format() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}:{each.line}: {each.name}"
        for path in PACKAGE.rglob("*.py")
        for each in imports_of(path, PACKAGE)
        if each.top in CODE_CARRIERS
    }
    assert found == set()


def test_no_call_loads_code() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}: {call}"
        for path in PACKAGE.rglob("*.py")
        for call in unsafe_calls(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == set()


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text)",
        "yaml.full_load(text)",
        "class L(yaml.Loader): pass\nyaml.load(text, Loader=L)",
    ],
)
def test_an_unsafe_call_is_found(source: str) -> None:
    assert len(unsafe_calls(ast.parse(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "yaml.safe_load(text)",
        "class L(yaml.SafeLoader): pass\nyaml.load(text, Loader=L)",
        "json.load(f)",
    ],
)
def test_a_safe_call_passes(source: str) -> None:
    assert unsafe_calls(ast.parse(source)) == []
