"""Workloads and devices to plan with, made by hand."""

from dataclasses import replace

from hypothesis import strategies as st

from gkd_dist.planning.controller import DRIVERS
from gkd_dist.planning.devices import Achieved, Device, Link, Shares
from gkd_dist.planning.shapes import shape_of_size
from gkd_dist.planning.workload import Lengths, TeacherLoad, Workload

ROLE = Achieved(compute=0.4, memory=0.5, overhead_s=0.002, source="made up")
DEVICE = Device(
    name="made up",
    flops={"bfloat16": 1e15, "float32": 1e14},
    memory_bytes_per_s=3e12,
    memory_bytes=80e9,
    link_bytes_per_s=4e11,
    host_bytes_per_s=5e10,
    network_bytes_per_s=5e10,
    num_per_node=8,
    sources={},
    achieved=Shares(
        sampler=ROLE, teacher=ROLE, learner=ROLE, publish=Link(host=0.1, network=0.5, overhead_s=0.05, source="made up")
    ),
)
TEACHER = TeacherLoad(
    shape=shape_of_size("8B"),
    transport="hidden",
    top_k=64,
    dtype="bfloat16",
    share=1.0,
    engine="vllm",
    max_concurrent=128,
    max_model_len=4096,
    tensor_parallel=None,
)
STUDENT = shape_of_size("1.7B")
WORK = Workload(
    name="made up",
    student=STUDENT,
    teachers=(TEACHER,),
    lengths=Lengths(prompt=200, completion=500, longest=800, fixed=300, source="made up"),
    batch_size=256,
    num_steps=100,
    student_fraction=0.75,
    per_batch=False,
    max_staleness=0,
    sampler_dtype="bfloat16",
    max_concurrent=256,
    max_model_len=4096,
    sampler_tensor_parallel=None,
    splits_engines=True,
    learner_dtype="bfloat16",
    micro_batch_tokens=8192,
    recomputes=True,
    trained_params=STUDENT.num_params,
    freezes_body=False,
    optimizer_bytes=36,
    state_bytes=16,
    loss_memory_bytes=None,
    published_bytes=STUDENT.num_params * 2,
    num_generations=1,
    driver=DRIVERS["ray"],
    probe_interval_s=5.0,
)


@st.composite
def works(draw: st.DrawFn) -> Workload:
    """Workloads that differ in everything a recipe decides."""
    teacher = replace(
        TEACHER,
        shape=shape_of_size(draw(st.sampled_from(("4B", "30B-A3B")))),
        transport=draw(st.sampled_from(("hidden", "topk", "sampled", "full"))),
    )
    longest = draw(st.integers(16, 2000))
    return replace(
        WORK,
        teachers=(teacher,) * draw(st.integers(0, 2)),
        lengths=Lengths(
            prompt=draw(st.integers(1, 2000)),
            completion=draw(st.integers(1, longest)),
            longest=longest,
            fixed=draw(st.integers(1, longest)),
            source="drawn",
        ),
        batch_size=draw(st.integers(1, 300)),
        student_fraction=draw(st.sampled_from((0.0, 0.25, 1.0))),
        per_batch=draw(st.booleans()),
        max_staleness=draw(st.integers(0, 4)),
        max_concurrent=draw(st.sampled_from((8, 256))),
    )
