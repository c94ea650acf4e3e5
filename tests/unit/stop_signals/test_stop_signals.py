"""The first signal is a wish, Ctrl-C after it the end: in a process of its own, with an asyncio loop."""

import copy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gkd_dist.errors import StoppedEarlyError
from gkd_dist.stop_signals import stopping_at_once

PROGRAM = """
import asyncio, signal, sys, time
from gkd_dist.errors import GkdError
from gkd_dist.stop_signals import StopSignals

def say(text):
    print(text, flush=True)

def last_act(code):
    print("last act", code, flush=True)
    if how == "disk hangs":
        time.sleep(3600)

async def main(how):
    with StopSignals(say, last_act) as stop:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(99))  # as ray.init does
        stop.install()
        if how != "early":
            stop.begin()
        say("ready")
        if how in ("deaf", "disk hangs"):
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass
        if how == "busy":
            time.sleep(3600)
        await stop.event.wait()
        if how == "slow":
            await asyncio.to_thread(sys.stdin.readline)
        say("checkpoint")
        raise stop.error("runs/r-1")

how = sys.argv[1]
try:
    asyncio.run(main(how))
except GkdError as error:
    say(str(error))
    sys.exit(error.exit_code)
"""


@contextmanager
def process(how: str) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen([sys.executable, "-c", PROGRAM, how], stdin=-1, stdout=-1, stderr=-1, text=True)
    try:
        assert running.stdout is not None and running.stdout.readline() == "ready\n"
        yield running
    finally:
        running.kill()
        running.communicate(timeout=20)


@pytest.mark.fault(33)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_the_run_end_in_order_with_75(number: signal.Signals) -> None:
    with process("willing") as running:
        running.send_signal(number)
        out, err = running.communicate(timeout=20)
    assert running.returncode == 75
    assert err == ""
    told, checkpoint, ended = out.splitlines()
    assert told.startswith(f"{number.name}: finishing this step")
    assert checkpoint == "checkpoint"
    assert ended == f"{number.name}: stopped with a good checkpoint; the same command goes on with runs/r-1"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_before_the_first_step_there_is_nothing_to_save(number: signal.Signals, code: int) -> None:
    with process("early") as running:
        running.send_signal(number)
        out, err = running.communicate(timeout=20)
    assert (running.returncode, err) == (code, "")
    told, _, ended = out.splitlines()
    assert told.startswith(f"{number.name}: closing what was started")
    assert ended == f"{number.name}: stopped before the first step; nothing to save"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_work_that_cannot_wait_is_broken_off_and_the_handlers_of_before_come_back(number: signal.Signals) -> None:
    former = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    with pytest.raises(StoppedEarlyError, match=f"{number.name}: stopped before") as caught, stopping_at_once():
        signal.raise_signal(number)
    assert caught.value.exit_code == 128 + number
    again = copy.copy(caught.value)  # as pickle does it
    assert (str(again), again.exit_code) == (str(caught.value), caught.value.exit_code)
    assert {each: signal.getsignal(each) for each in former} == former


@pytest.mark.parametrize("then", ["goes on", "fails"])
def test_a_signal_that_somebody_swallowed_is_not_forgotten(then: str) -> None:
    with pytest.raises(StoppedEarlyError, match="SIGTERM: stopped before"), stopping_at_once():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception as error:  # as libraries do around what they import
            if then == "fails":
                raise ValueError("transformers makes no configuration of it") from error


@pytest.mark.fault(33)
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_ctrl_c_ends_a_run_that_does_not_come_to_its_end(first: signal.Signals) -> None:
    with process("deaf") as running:
        running.send_signal(first)
        assert running.stdout is not None and running.stdout.readline().startswith(f"{first.name}: finishing")
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=20)
    assert running.returncode == 130
    assert "stopped at once" in err
    assert out == "last act 130\n"


def test_a_last_act_that_hangs_does_not_keep_the_second_signal_from_ending_it() -> None:
    with process("disk hangs") as running:
        running.send_signal(signal.SIGINT)
        assert running.stdout is not None and running.stdout.readline().startswith("SIGINT: finishing")
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=20)
    assert running.returncode == 130


@pytest.mark.fault(33)
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_who_asks_again_with_sigterm_does_not_cost_the_checkpoint(first: signal.Signals) -> None:
    with process("slow") as running:
        running.send_signal(first)
        assert running.stdout is not None and running.stdout.readline().startswith(f"{first.name}: finishing")
        for _ in range(3):
            running.send_signal(signal.SIGTERM)
        out, err = running.communicate("go on\n", timeout=20)
    assert (running.returncode, err) == (75, "")
    assert out.splitlines()[0] == "checkpoint"


@pytest.mark.fault(33)
def test_a_loop_that_stands_still_is_ended_too() -> None:
    with process("busy") as running:
        deadline = time.monotonic() + 20
        while running.poll() is None and time.monotonic() < deadline:
            running.send_signal(signal.SIGINT)  # two that arrive together count as one: until two were seen
            time.sleep(0.02)
        _, err = running.communicate(timeout=20)
    assert running.returncode == 130
    assert "stopped at once" in err


def test_the_handlers_of_before_come_back() -> None:
    code = """
import asyncio, signal
from gkd_dist.stop_signals import StopSignals
mine = lambda *_: None
before = signal.getsignal(signal.SIGINT)  # a shell lets its background jobs ignore it
signal.signal(signal.SIGTERM, mine)
async def main():
    during = signal.getsignal(signal.SIGINT)
    with StopSignals(print) as stop:
        assert signal.getsignal(signal.SIGTERM) == stop._receive == signal.getsignal(signal.SIGINT)
        stop.install()
        assert not stop.is_requested
    assert signal.getsignal(signal.SIGTERM) is mine
    assert signal.getsignal(signal.SIGINT) is during
asyncio.run(main())
assert signal.getsignal(signal.SIGINT) is before
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
