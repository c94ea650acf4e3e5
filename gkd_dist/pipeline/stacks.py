"""Where every thread and every task of a process stands at this moment."""

import asyncio
import sys
import threading
import traceback
from typing import Any


def stacks(loop: asyncio.AbstractEventLoop) -> dict[str, list[str]]:
    """The Python stack of every thread of this process and of every task of `loop`, innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = {
        f"thread {names.get(ident, ident)}": traceback.format_stack(frame)
        for ident, frame in sys._current_frames().items()
    }
    for task in asyncio.all_tasks(loop):
        found[f"task {task.get_name()}"] = _awaits(task)
    return found


def _awaits(task: "asyncio.Task[Any]") -> list[str]:
    """Where a task waits. `Task.get_stack` knows the outermost coroutine alone; this follows what each one awaits."""
    lines = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        kind = next((kind for kind in ("cr", "gi", "ag") if hasattr(awaited, f"{kind}_frame")), None)
        if kind is None:  # a future, or an iterator of C
            break
        frame = getattr(awaited, f"{kind}_frame")
        if frame is not None:
            lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
        awaited = getattr(awaited, {"cr": "cr_await", "gi": "gi_yieldfrom", "ag": "ag_await"}[kind])
    return lines
