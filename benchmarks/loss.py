r"""Time, memory and products of the loss, forward and backward, beside liger-kernel 0.8.5 and TRL 1.16.

    pip install --no-deps --target SITE liger-kernel==0.8.5 trl==1.16.0
    PYTHONPATH=SITE .venv/bin/python benchmarks/loss.py [--device cuda] [--rounds 5] \
        [--only time memory products chunks]

(`--no-deps` because both ask for more than their losses need; `.[benchmarks]` installs them whole.)

Every provider runs in one process, in turn; the first round, in which compilers work, is thrown away. Each is judged
by its fastest round, as a fraction of the fastest round of the four matrix products alone; the median over the rounds
of the ratio within a round is kept as well.
Values and gradients are checked against a float64 reference before anything counts. Memory is the peak over the
inputs, in a process of its own per provider. The environment is that of a learner actor (`gkd_dist.process`).

Prints a table and each bar with what was measured, writes benchmarks/loss.json, ends with 1 if a bar is missed.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from operator import truediv
from pathlib import Path
from statistics import median

from gkd_dist.process import actor_environment

RESULT = Path(__file__).with_suffix(".json")
CHUNK = {"cpu": 256, "cuda": 4096}
TIME_SHAPES = {
    "cpu": [(512, 32000, 512, 1024), (256, 151936, 256, 512), (2048, 49152, 576, 576)],
    "cuda": [
        (tokens, ids, *widths)
        for ids in (128256, 151936)
        for widths in ((4096, 4096), (2048, 5120), (1024, 4096))
        for tokens in (1024, 4096, 8192)
    ],
}
"""(tokens, ids, student width, teacher width)"""
MEMORY_SHAPE = {"cpu": (32000, 256, 512), "cuda": (128256, 2048, 4096)}
MEMORY_TOKENS = {"cpu": (512, 1024, 4096), "cuda": (4096, 8192, 32768)}
"""T, the T at which providers are compared, and 8 T."""
SWEEP = {"cpu": (32, 64, 128, 256, 512), "cuda": (256, 512, 1024, 2048, 4096, 8192)}
TOLERANCE = {"cpu": 1e-5, "cuda": 1e-2}
"""Relative, of loss and gradients (as norms) against float64; bfloat16 gradients have 8 bits."""
TVD_TOLERANCE = 3e-3
"""The gradient of TVD jumps where p = q: of 16 million entries about one in a million lies within float32 rounding of
that and gets the other sign, in every implementation; sqrt(1e-6) of the norm."""


def main() -> int:
    arguments = parser().parse_args()
    if arguments.memory_of:
        print(json.dumps(peak_bytes(*arguments.memory_of, arguments.device)))
        return 0
    if "MALLOC_MMAP_MAX_" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | actor_environment())  # noqa: S606
    parts = {"time": timings, "memory": memories, "products": products, "chunks": chunk_sweep}
    result = {"command": " ".join(sys.argv), "machine": machine(arguments.device), "versions": versions()}
    for name in arguments.only:
        result[name] = parts[name](arguments)
    result["bars"] = list(bars(result, arguments.device))
    for bar in result["bars"]:
        print(f"{'pass' if bar['passed'] else 'MISS'}  {bar['bar']}: {bar['measured']}")
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {arguments.output}")
    return 0 if all(bar["passed"] for bar in result["bars"]) else 1


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description="The loss beside liger-kernel's and TRL's.")
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--rounds", type=int, default=5, help="timed rounds after the one that is thrown away")
    parts = ("time", "memory", "products", "chunks")
    options.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    options.add_argument("--kinds", nargs="+", default=["forward_kl", "reverse_kl", "jsd", "tvd"])
    options.add_argument("--shapes", nargs="+", type=shape, help="T,V,H_student,H_teacher instead of the usual ones")
    options.add_argument("--output", type=Path, default=RESULT)
    options.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    return options


def shape(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def timings(arguments: argparse.Namespace) -> list[dict]:
    """Per shape and divergence: milliseconds of every provider, and how it compares with the floor."""
    rows = []
    for dimensions in arguments.shapes or TIME_SHAPES[arguments.device]:
        for kind in arguments.kinds:
            rows.append(timing(kind, dimensions, arguments))
            print_timing(rows[-1])
    return rows


def timing(kind: str, dimensions: tuple[int, int, int, int], arguments: argparse.Namespace) -> dict:
    from loss_providers import Case, providers, reference

    case = Case.make(kind, dimensions, CHUNK[arguments.device], arguments.device)
    exact = reference(case)
    running = providers(kind, arguments.device)
    errors: dict[str, float] = {}
    seconds: dict[str, list[float]] = {}
    for index in range(arguments.rounds + 1):
        for name, provider in list(running.items()):
            case.clear()
            try:
                elapsed, loss = timed(lambda run=provider: run(case), arguments.device)
            except Exception as error:  # an opponent that does not fit the machine's memory, say
                if name in ("floor", "ours"):
                    raise
                print(f"  {name} fails at {dimensions}: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
                del running[name]
                continue
            if name != "floor":
                found = (loss, case.hidden.grad, case.head.grad)
                errors[name] = max(errors.get(name, 0.0), *(relative(*pair) for pair in zip(found, exact, strict=True)))
            if index:
                seconds.setdefault(name, []).append(elapsed)
    tolerance = max(TOLERANCE[arguments.device], TVD_TOLERANCE if kind == "tvd" else 0)
    wrong = {name: error for name, error in errors.items() if not error <= tolerance}
    if "ours" in wrong:
        sys.exit(f"our {kind} at {dimensions} differs from float64 by {wrong['ours']:.1e}")
    for name in wrong:
        print(f"  {name} differs from float64 by {wrong[name]:.1e}")
    fastest = min(seconds["floor"])
    return {
        "shape": dimensions,
        "divergence": kind,
        "wrong": sorted(wrong),
        "chunk_tokens": case.chunk_tokens,
        "floor_gflops": round(case.flops / fastest / 1e9, 1),
        "providers": {
            name: {
                "min_ms": round(1e3 * min(values), 2),
                "median_ms": round(1e3 * median(values), 2),
                "of_floor": round(fastest / min(values), 3),
                "of_floor_median": round(median(map(truediv, seconds["floor"], values)), 3),
                "error": errors.get(name),
            }
            for name, values in seconds.items()
        },
    }


def timed(run: Callable, device: str) -> tuple[float, object]:
    """Seconds of one run; on a GPU by its own clock, with a cold second-level cache."""
    import torch

    if device == "cpu":
        began = time.perf_counter()
        result = run()
        return time.perf_counter() - began, result
    torch.empty(256 << 20, dtype=torch.int8, device=device).zero_()
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began.record()
    result = run()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1e3, result


def relative(found, exact) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def print_timing(row: dict) -> None:
    print(f"\n{row['divergence']} at {row['shape']}, chunk {row['chunk_tokens']}: {row['floor_gflops']} GFLOP/s floor")
    for name, found in row["providers"].items():
        error = "" if found["error"] is None else f"   off float64 by {found['error']:.0e}"
        print(
            f"  {name:20} {found['min_ms']:10.1f} ms (median {found['median_ms']:.1f})  {found['of_floor']:.2f}{error}"
        )
    sys.stdout.flush()


def memories(arguments: argparse.Namespace) -> list[dict]:
    """Peak over the inputs of the JSD, MiB, each provider in a process of its own."""
    few, some, many = MEMORY_TOKENS[arguments.device]
    wanted = [("ours", few), ("ours", some), ("ours", many)]
    wanted += [(name, some) for name in ("liger compiled", "liger compiled 1024", "trl chunked", "materialised")]
    rows = []
    for name, tokens in wanted:
        command = [sys.executable, __file__, "--device", arguments.device, "--memory-of", name, str(tokens)]
        found = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()[-1]
        rows.append({"provider": name, "tokens": tokens, "peak_mib": round(int(found) / 2**20, 1)})
        print(f"  {name:20} T={tokens:5}  {rows[-1]['peak_mib']:8.1f} MiB over the inputs", flush=True)
    return rows


def peak_bytes(name: str, tokens: str, device: str) -> int:
    """Over the inputs, of one run of provider `name`. A first run has loaded and compiled what it needs, on other
    inputs of the same sizes, so that a compiler's memory is not counted."""
    import torch
    from loss_providers import Case, providers

    ids, width, teacher_width = MEMORY_SHAPE[device]
    run = providers("jsd", device)[name]
    dimensions = (int(tokens), ids, width, teacher_width)
    if device == "cuda":
        run(Case.make("jsd", dimensions, CHUNK[device], device))
        case = Case.make("jsd", dimensions, CHUNK[device], device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(case)
        return torch.cuda.max_memory_allocated() - before
    run(Case.make("jsd", dimensions, CHUNK[device], device))
    case = Case.make("jsd", dimensions, CHUNK[device], device)
    release_heap()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    run(case)
    return status("VmHWM") - before


def release_heap() -> None:
    """What the first run has freed goes back to the system, or it would hide what the second takes."""
    import ctypes
    import gc

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def status(field: str) -> int:
    """Bytes, of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) << 10


def products(arguments: argparse.Namespace) -> dict:
    """Counted FLOPs of the products of JSD and forward KL, over the least that an exact loss needs."""
    import torch
    from loss_providers import Case, liger, ours, trl_chunked
    from torch.utils.flop_counter import FlopCounterMode

    def in_place(_, left, right, *__, **___) -> int:  # the counter knows addmm alone
        return 2 * left[0] * left[1] * right[1]

    found: dict[str, dict[str, float]] = {}
    for kind in ("forward_kl", "jsd"):
        case = Case.make(kind, (96, 1000, 64, 128), 32, arguments.device)
        for name, run in {"ours": ours, "liger eager": liger(compiled=False), "trl chunked": trl_chunked}.items():
            case.clear()
            counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place})
            with counter:
                run(case)
            found.setdefault(kind, {})[name] = round(counter.get_total_flops() / case.flops, 4)
    print(f"\nFLOPs of the products over 2TV(3 H_student + H_teacher): {found}", flush=True)
    return found


def chunk_sweep(arguments: argparse.Namespace) -> list[dict]:
    """Milliseconds of the floor and of ours over the size of a chunk."""
    from loss_providers import Case, floor, ours

    dimensions = TIME_SHAPES[arguments.device][0]
    runs = {
        (chunk, name): (Case.make("jsd", dimensions, chunk, arguments.device), run)
        for chunk in SWEEP[arguments.device]
        for name, run in {"floor": floor, "ours": ours}.items()
    }
    seconds: dict[tuple[int, str], list[float]] = {key: [] for key in runs}
    for index in range(arguments.rounds + 1):
        for key, (case, run) in runs.items():
            case.clear()
            elapsed, _ = timed(lambda run=run, case=case: run(case), arguments.device)
            if index:
                seconds[key].append(elapsed)
    rows = [
        {"chunk_tokens": chunk}
        | {f"{name}_ms": round(1e3 * min(seconds[chunk, name]), 2) for name in ("floor", "ours")}
        for chunk in SWEEP[arguments.device]
    ]
    print(f"\nchunks, jsd at {dimensions}:", *rows, sep="\n  ", flush=True)
    return rows


def bars(result: dict, device: str) -> Iterator[dict]:
    """What was promised, and what was found."""
    for row in result.get("time", []):
        speed = {name: found["of_floor"] for name, found in row["providers"].items()}
        what = f"{row['divergence']} {','.join(map(str, row['shape']))}"
        if device == "cpu" or row["shape"][2] == 4096:
            yield bar(
                f"{what}: at least {0.80 if device == 'cpu' else 0.75} of the floor",
                speed["ours"],
                0.80 if device == "cpu" else 0.75,
            )
        against = {"liger compiled": 1.0} if device == "cpu" else {"materialised": 1.0}
        if row["divergence"] == "jsd":
            against |= {"trl chunked": 2.5, "materialised": 1.8} if device == "cpu" else {"trl chunked": 1.9}
        elif device == "cuda":
            against |= {"trl chunked": 1.5}
        for name, times in against.items():
            text = f"{what}: at least {times} x {name}"
            if name in speed and name not in row["wrong"]:
                yield bar(text, speed["ours"] / speed[name], times)
            else:
                yield {"bar": text, "measured": "not measured: it failed, or was wrong", "passed": False}
    peaks = {(row["provider"], row["tokens"]): row["peak_mib"] for row in result.get("memory", [])}
    if peaks:
        few, some, many = MEMORY_TOKENS[device]
        gradient = (many - few) * MEMORY_SHAPE[device][1] * (4 if device == "cpu" else 6) / 2**20
        growth = (peaks["ours", many] - gradient) / peaks["ours", few]
        yield bar(f"memory of T={many} less its d hidden, over T={few}", growth, at_most=1.10)
        for name, share in (("liger compiled", 0.85), ("materialised", 0.25)):
            yield bar(f"memory over {name}'s at T={some}", peaks["ours", some] / peaks[name, some], at_most=share)
    for kind, counted in result.get("products", {}).items():
        yield bar(f"products of {kind} over the least", counted["ours"], at_least=0.99, at_most=1.01)


def bar(text: str, measured: float, at_least: float = float("-inf"), at_most: float = float("inf")) -> dict:
    limits = [f">= {at_least}"] * (at_least > 0) + [f"<= {at_most}"] * (at_most < float("inf"))
    return {
        "bar": f"{text} ({', '.join(limits)})",
        "measured": round(measured, 3),
        "passed": at_least <= measured <= at_most,
    }


def machine(device: str) -> dict:
    import torch

    torch.set_num_threads(min(2, os.cpu_count() or 1) if device == "cpu" else torch.get_num_threads())
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    found = {"cpu": names[0], "cores": os.cpu_count(), "threads": torch.get_num_threads(), "load": os.getloadavg()}
    return found | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}) | {"system": platform.platform()}


def versions() -> dict[str, str]:
    def of(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "missing"

    return {name: of(name) for name in ("torch", "liger-kernel", "trl", "transformers", "triton")}


if __name__ == "__main__":
    sys.exit(main())
