"""A process that ends stays until whoever scrapes it has seen its end, and for nobody else."""

import asyncio
import os
import signal
import urllib.request

import pytest

from gkd_dist.distillation.telemetry import end_scraped
from gkd_dist.errors import StoppedEarlyError, StoppedError
from gkd_dist.metrics.exporter import Exporter
from gkd_dist.metrics.scrapes import HEADER, Scrapes
from gkd_dist.pipeline.accounting import StepAccounts


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def scraped(*times: tuple[str, float]) -> tuple[Scrapes, Clock]:
    clock = Clock()
    scrapes = Scrapes(clock)
    for client, at in times:
        scrapes.note(client, at)
    return scrapes, clock


def test_the_next_scrape_is_due_an_interval_after_the_last_one() -> None:
    scrapes, clock = scraped(("a", 0), ("a", 4))
    clock.now = 5
    assert scrapes.due_s(since=5) == 4 + 1.5 * 4 + 1 - 5
    scrapes.note("a", 8)
    assert scrapes.due_s(since=5) == 0


@pytest.mark.parametrize("times", [(), (("a", 4.0),), (("a", 0.0), ("b", 4.0))])
def test_nobody_is_waited_for_who_came_less_than_twice(times: tuple[tuple[str, float], ...]) -> None:
    scrapes, clock = scraped(*times)
    clock.now = 5
    assert scrapes.due_s(since=5) == 0


def test_nobody_is_waited_for_who_comes_no_more() -> None:
    scrapes, clock = scraped(("a", 0), ("a", 4))
    clock.now = 30
    assert scrapes.due_s(since=30) == 0


def test_of_several_all_are_waited_for() -> None:
    scrapes, clock = scraped(("a", 0), ("b", 1), ("a", 5), ("b", 6))
    clock.now = 7
    scrapes.note("a", 8)
    assert scrapes.due_s(since=7) == 6 + 1.5 * 5 + 1 - 7
    scrapes.note("b", 8)
    assert scrapes.due_s(since=7) == 0


def test_a_scrape_that_had_begun_before_does_not_count() -> None:
    scrapes, clock = scraped(("a", 0), ("a", 4))
    clock.now = 5
    scrapes.note("a", 4.9)
    assert scrapes.due_s(since=5) > 0


def test_only_the_newest_clients_are_kept() -> None:
    scrapes, _ = scraped(*((str(number), float(at)) for at in (0, 1) for number in range(100)))
    assert len(scrapes._last) <= 16 and len(scrapes._interval_s) <= 16


def ask(port: int, **headers: str) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def until_due(exporter: Exporter, port: int) -> None:
    """Scrape until one is expected; each is noted a moment after its answer."""
    end = exporter.scrapes.now() + 10
    while exporter.scrapes.due_s(since=exporter.scrapes.now()) == 0:
        assert exporter.scrapes.now() < end
        ask(port, **{HEADER: "4"})


def ended(exporter: Exporter, error: Exception | None, meanwhile: object = None) -> None:
    """A block that ends so, with the accounts of a run in training."""
    accounts = StepAccounts(max_steps=1, metrics=exporter, sinks=[])
    accounts.show("training", 0)

    async def block() -> None:
        if callable(meanwhile):
            asyncio.get_running_loop().call_later(0.2, meanwhile)
        async with end_scraped(accounts, exporter.scrapes):
            if error is not None:
                raise error

    asyncio.run(block())


def paced(exporter: Exporter, interval_s: float) -> None:
    """Prometheus has come twice."""
    now = exporter.scrapes.now()
    exporter.scrapes.note("127.0.0.1", now - interval_s)
    exporter.scrapes.note("127.0.0.1", now)


@pytest.mark.parametrize("error", [None, StoppedError("stopped")])
def test_a_run_that_ends_in_order_is_scraped_once_more_as_ended(error: StoppedError | None) -> None:
    exporter = Exporter()
    port = exporter.serve("127.0.0.1", 0)
    paced(exporter, 100)
    texts: list[str] = []

    def scrape() -> None:
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, lambda: texts.append(ask(port, **{HEADER: "4"})))

    try:
        if error is None:
            ended(exporter, None, scrape)
        else:
            with pytest.raises(StoppedError):
                ended(exporter, error, scrape)
    finally:
        exporter.close()
    (text,) = texts
    assert 'gkd_run_stage{stage="ended"} 1.0' in text and 'gkd_run_stage{stage="training"} 0.0' in text


@pytest.mark.parametrize("error", [ValueError("a fault"), StoppedEarlyError(signal.SIGTERM)])
def test_a_run_that_fails_ends_as_it_is(error: Exception) -> None:
    exporter = Exporter()
    paced(exporter, 100)
    with pytest.raises(type(error)):
        ended(exporter, error)
    assert 'gkd_run_stage{stage="training"} 1.0' in exporter.text().decode()


def test_who_only_looks_is_not_waited_for() -> None:
    exporter = Exporter()
    port = exporter.serve("127.0.0.1", 0)
    try:
        for _ in range(3):
            ask(port)
        assert exporter.scrapes.due_s(since=exporter.scrapes.now()) == 0
        until_due(exporter, port)
    finally:
        exporter.close()


def test_a_signal_ends_the_wait_and_nothing_else() -> None:
    exporter = Exporter()
    paced(exporter, 12)
    began = exporter.scrapes.now()
    former = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError, match="stopped"):
        ended(exporter, StoppedError("stopped"), lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert exporter.scrapes.due_s(since=began) > 0  # nobody had come
    assert signal.getsignal(signal.SIGTERM) is former
