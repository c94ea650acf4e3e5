"""The part of a Ray dashboard's HTTP interface that jobs need, with a proxy's faults before it."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import ray
from aiohttp import web


@dataclass
class FakeDashboard:
    """What it has, and what it was asked."""

    states: list[str]
    """Of the one job, one answer after the other; the last one stays."""
    log: str = ""
    metadata: dict[str, str] = field(default_factory=lambda: {"gkd_run": "words"})
    tails: list[str] = field(default_factory=list)
    """What becomes of each request for the log as it grows: `502`, `cut` in the middle of it, or `whole`; the last one
    stays."""
    token: str | None = None
    """That it asks for."""
    has_last_lines: bool = True
    url: str = ""
    asked: list[str] = field(default_factory=list)
    """Paths."""
    told: list[str | None] = field(default_factory=list)
    """Authorization headers."""

    def _next(self, answers: list[str]) -> str:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    @property
    def job(self) -> dict[str, object]:
        state = self._next(self.states)
        return {
            "type": "SUBMISSION", "submission_id": "words-attempt-1", "job_id": None, "status": state,
            "entrypoint": "", "metadata": self.metadata, "driver_exit_code": 0 if state == "SUCCEEDED" else None,
        }  # fmt: skip

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        self.told.append(request.headers.get("Authorization"))
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401, text="Unauthorized")
        match request.path:
            case "/api/version":
                return web.json_response({"version": "4", "ray_version": ray.__version__, "ray_commit": ""})
            case "/api/jobs/":
                return web.json_response([self.job])
            case "/api/jobs/words-attempt-1":
                return web.json_response(self.job)
            case "/api/jobs/words-attempt-1/stop":
                return web.json_response({"stopped": True})
            case "/api/jobs/words-attempt-1/logs":
                return web.json_response({"logs": self.log})
            case "/api/jobs/words-attempt-1/logs/tail":
                return await self._tail(request, self._next(self.tails))
            case "/api/v0/logs/file" if self.has_last_lines:
                lines = self.log.splitlines(keepends=True)
                return web.Response(text="".join(lines[-int(request.query["lines"]) :]))
        return web.Response(status=404)

    async def _tail(self, request: web.Request, how: str) -> web.StreamResponse:
        if how == "502":
            return web.Response(status=502, text="Bad Gateway")
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(self.log if how == "whole" else self.log[: len(self.log) // 2])
        if how == "cut":
            request.transport.abort()
            return socket
        await socket.close()
        return socket


@contextmanager
def serving(dashboard: FakeDashboard) -> Iterator[FakeDashboard]:
    """Sets its `url`."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> web.AppRunner:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", dashboard.answer)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        dashboard.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
        return runner

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        yield dashboard
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
