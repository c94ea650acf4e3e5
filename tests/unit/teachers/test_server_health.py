"""A teacher's server is asked for a sign of life, cheaply."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

pytest.importorskip("openai")

from gkd_dist.errors import EngineError
from gkd_dist.teachers.endpoint import Endpoint


@contextmanager
def serving(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 418)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """No access log."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def endpoint(url: str) -> Endpoint:
    return Endpoint(url, api_key_env=None, timeout_s=5, max_retries=0)


@pytest.mark.parametrize("status", [200, 404])
def test_a_server_that_answers_lives(status: int) -> None:
    with serving(status) as url:
        endpoint(url).check_health()


def test_a_server_whose_engine_is_dead_or_that_is_gone_does_not() -> None:
    with serving(503) as url, pytest.raises(EngineError, match=r"/health answered 503"):
        endpoint(url).check_health()
    with pytest.raises(EngineError, match=r"/health does not answer"):
        endpoint(url).check_health()
