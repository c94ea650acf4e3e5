"""`make audit`: the real pip-audit, asking a service on this machine, or none."""

import importlib.util
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / ".ci" / "audit.py"
pytest.importorskip("pip_audit", reason="pip-audit is not installed; pip install -e '.[dev]'")


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


@contextmanager
def service(vulnerable: str) -> Iterator[str]:
    """The address of an advisory service in OSV's form that knows one bad package."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = asked["package"]["name"]
            affected = [
                {
                    "package": {"name": name, "ecosystem": "PyPI"},
                    "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.9"}]}],
                }
            ]
            found = {"id": "GHSA-test", "aliases": [], "summary": "bad", "details": "bad", "affected": affected}
            body = json.dumps({"vulns": [found]} if name == vulnerable else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    path = tmp_path / "constraints.txt"
    path.write_text("# two\ngood==1.0\nbad==1.0\n")
    return path


@pytest.mark.parametrize(("vulnerable", "code"), [("none", 0), ("bad", 1)])
def test_what_the_service_knows_decides(
    audit: ModuleType, pins: Path, vulnerable: str, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with service(vulnerable) as address:
        assert audit.main(["-s", "osv", "--osv-url", address], pins) == code
    out, err = capfd.readouterr()
    assert ("nothing is known against the 2 pinned versions" in out) is (code == 0)
    assert ("bad 1.0: GHSA-test, mended in 9.9" in err) is (code == 1)
    assert "good" not in err


def test_a_service_that_does_not_answer_is_no_success(
    audit: ModuleType, pins: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as gone:
        address = f"http://127.0.0.1:{gone.server_port}/"
    assert audit.main(["-s", "osv", "--osv-url", address], pins) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "nothing was checked: the advisory service gave no answer" in err
    assert "Traceback" not in err


def test_packages_that_the_service_does_not_know_are_no_success(audit: ModuleType) -> None:
    asked = {"name": "a", "version": "1", "vulns": []}
    bad = {"name": "b", "version": "1", "vulns": [{"id": "X-1", "fix_versions": []}]}
    unknown = {"name": "c", "skip_reason": "not found"}
    assert audit.verdict(json.dumps({"dependencies": [asked]}), "")[0] == 0
    assert audit.verdict(json.dumps({"dependencies": [asked, unknown]}), "") == (
        2,
        ["audit: 1 of 2 packages are not known there, and unchecked: c"],
    )
    code, lines = audit.verdict(json.dumps({"dependencies": [bad, unknown]}), "")
    assert code == 1 and lines[0] == "audit: b 1: X-1, mended in none"
