"""A small HTTP server for one process's metrics and health (floor F2).

GET /metrics   200, Prometheus text format
GET /healthz   200 while the process serves
GET /readyz    200 once the process is ready for work, 503 before
GET /http_sd   200, what Prometheus shall scrape, for its HTTP service discovery
"""

import errno
import socketserver
import sys
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6, gaierror
from typing import Any

from gkd_dist.errors import ConfigError
from gkd_dist.metrics.discovery import Target, answer, controller_target
from gkd_dist.metrics.scrapes import HEADER, Scrapes

_POLL_S = 0.05
"""How soon the server notices that it shall stop."""
_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"
_METRICS_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Endpoint:
    """Serves from a daemon thread as soon as it is made.

    Args:
        host: address or name to listen on.
        port: 0 picks a free one; see `port`.
        metrics: returns the body of `/metrics`; called on the server's threads, as are the others.
        others: what there is to scrape beside this endpoint.
        scrapes: told of each.

    Raises:
        ConfigError: the address cannot be used.
    """

    def __init__(
        self,
        host: str,
        port: int,
        metrics: Callable[[], bytes],
        is_ready: Callable[[], bool],
        others: Callable[[], Sequence[Target]],
        scrapes: Scrapes,
    ) -> None:
        self._server = _listen(host, port, _handler(metrics, is_ready, others, scrapes))
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="metrics-endpoint", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # of connections that wait; with the 5 of the base class others wait for a second or more

    def server_bind(self) -> None:
        # HTTPServer's own looks the host's name up in DNS, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that hangs up or says nothing is no news; a fault of ours is.
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Server6(_Server):
    address_family = AF_INET6


def _listen(host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> _Server:
    server = _Server6 if ":" in host else _Server
    try:
        return server((host, port), handler)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            problem = (
                f"metrics.port: {port} on {host} is already in use; choose another, "
                "metrics.port=0 for any free one, or metrics.port=null to serve none"
            )
        elif error.errno == errno.EACCES:
            problem = f"metrics.port: {port} is not permitted to this user; choose one above 1023, or metrics.port=0"
        elif isinstance(error, gaierror) or error.errno == errno.EADDRNOTAVAIL:
            problem = f"metrics.host: {host} is not an address of this machine; try 127.0.0.1 or 0.0.0.0"
        else:
            raise
        raise ConfigError([problem]) from error


def _handler(
    metrics: Callable[[], bytes],
    is_ready: Callable[[], bool],
    others: Callable[[], Sequence[Target]],
    scrapes: Scrapes,
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds; a client that says nothing must not keep its thread

        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/metrics":
                    began = scrapes.now()
                    self._answer(200, metrics(), _METRICS_TEXT)
                    if self.headers.get(HEADER) is not None:
                        scrapes.note(self.client_address[0], began)
                case "/healthz":
                    self._answer(200, b"ok\n")
                case "/readyz":
                    self._answer(*((200, b"ready\n") if is_ready() else (503, b"starting\n")))
                case "/http_sd":
                    controller = controller_target(self.headers.get("Host"), self.connection.getsockname()[1])
                    self._answer(200, answer(controller, others()), _JSON)
                case _:
                    self._answer(404, b"try /metrics, /healthz, /readyz or /http_sd\n")

        def _answer(self, status: int, body: bytes, content_type: str = _TEXT) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Scrapes are not logged."""

    return Handler
