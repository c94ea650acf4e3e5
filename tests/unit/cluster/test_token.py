"""Where the token of a cluster is looked for: Ray's order, and never in a message."""

from pathlib import Path

import pytest

from gkd_dist.cluster.token import find_token, sources
from gkd_dist.errors import ConfigError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("of-home\n")
    path.chmod(0o600)
    return tmp_path


def test_the_order_is_that_of_ray(home: Path, tmp_path: Path) -> None:
    named = tmp_path / "named"
    named.write_text("of-path")
    variables = {"HOME": str(home), "RAY_AUTH_TOKEN_PATH": str(named), "RAY_AUTH_TOKEN": "of-environment"}
    values = []
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "HOME"):
        found = find_token(variables)
        values.append(None if found is None else found.headers["Authorization"])
        variables[name] = str(tmp_path / "elsewhere") if name == "HOME" else ""
    assert values == ["Bearer of-environment", "Bearer of-path", "Bearer of-home"]
    assert find_token(variables) is None


def test_the_default_file_is_for_clusters_that_want_a_token(home: Path) -> None:
    variables = {"HOME": str(home)}
    assert find_token(variables, is_asked=False) is None and find_token(variables, is_asked=True) is not None
    assert find_token({**variables, "RAY_AUTH_MODE": "token"}, is_asked=False) is not None
    assert find_token({**variables, "RAY_AUTH_TOKEN": "named"}, is_asked=False) is not None


def test_none_is_sent_where_authentication_is_off(home: Path) -> None:
    assert find_token({"HOME": str(home), "RAY_AUTH_TOKEN": "x", "RAY_AUTH_MODE": "Disabled"}) is None


@pytest.mark.parametrize("content", [None, "", b"\xff\xfe"])
def test_a_named_source_without_a_token_is_an_error(tmp_path: Path, content: str | bytes | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match="RAY_AUTH_TOKEN_PATH"):
        find_token({"RAY_AUTH_TOKEN_PATH": str(path), "HOME": str(tmp_path)})


@pytest.mark.fault(48)
def test_it_is_not_shown(home: Path) -> None:
    found = find_token({"HOME": str(home)})
    assert found is not None
    assert "of-home" not in f"{found} {found!r}" and found.source == str(home / ".ray" / "auth_token")
    assert str(home) in sources({"HOME": str(home)})


@pytest.mark.parametrize(("mode", "is_open"), [(0o600, False), (0o640, True), (0o644, True)])
def test_who_else_may_read_its_file(home: Path, mode: int, is_open: bool) -> None:
    (home / ".ray" / "auth_token").chmod(mode)
    found = find_token({"HOME": str(home)})
    assert found is not None and found.is_open_to_others is is_open
