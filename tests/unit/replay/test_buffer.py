import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_dist.replay.buffer import ReplayBuffer
from gkd_dist.replay.groups import Admission
from gkd_dist.replay.sample_ids import SampleIdSet
from gkd_dist.targets import FullTargets
from gkd_dist.types import FinishReason, SampleId, ScoredTrajectory, Source, TeacherScore, Trajectory, VersionRange

ONE_TOKEN = np.array([1], dtype=np.int32)
ONE_LOG_PROB = np.zeros(1, dtype=np.float32)
TARGETS = FullTargets(np.zeros((1, 2), dtype=np.float32))


def student(index, version=0, *, oldest=None, attempt=0, repeat=0):
    versions = VersionRange(version if oldest is None else oldest, version)
    trajectory = Trajectory(
        SampleId("r", index, repeat),
        ONE_TOKEN,
        ONE_TOKEN,
        Source.STUDENT,
        FinishReason.STOP,
        attempt,
        ONE_LOG_PROB,
        versions,
    )
    return ScoredTrajectory(trajectory, (TeacherScore("teacher", TARGETS),))


def fixed(index, source=Source.GROUND_TRUTH):
    trajectory = Trajectory(SampleId("r", index), ONE_TOKEN, ONE_TOKEN, source, FinishReason.STOP)
    return ScoredTrajectory(trajectory, (TeacherScore("teacher", TARGETS),))


def indices(batch):
    return [drawn.scored.trajectory.sample_id.prompt_index for drawn in batch]


def admit(replay, *scored_and_version):
    """Offer trajectories as one group."""
    *scored, version = scored_and_version
    return replay.admit(scored, version)


async def settle():
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


def buffer(capacity=4, max_staleness=0, *, batch_size=4, **options):
    return ReplayBuffer(capacity, max_staleness, batch_size=batch_size, **options)


def run(scenario):
    async def bounded():
        async with asyncio.timeout(20):
            return await scenario()

    return asyncio.run(bounded())


def test_draw_takes_the_lowest_positions_in_stream_order():
    async def scenario():
        replay = buffer(capacity=8)
        for index in (7, 1, 5):
            await admit(replay, student(index), 0)
        for index in (6, 2, 4):
            await admit(replay, fixed(index), 0)
        assert (replay.num_student, replay.num_fixed, replay.depth) == (3, 3, 6)
        assert indices(await replay.draw(2, 1, 0)) == [1, 2, 5]
        assert indices(await replay.draw(1, 2, 0)) == [4, 6, 7]
        assert replay.depth == 0

    run(scenario)


def test_repeats_of_a_prompt_come_in_order_of_the_repeat_index():
    async def scenario():
        replay = buffer()
        for index, repeat in ((1, 0), (0, 1), (0, 0)):
            assert await admit(replay, student(index, repeat=repeat), 0) is Admission.ADMITTED
        drawn = [each.scored.trajectory.sample_id for each in await replay.draw(3, 0, 0)]
        assert drawn == [SampleId("r", 0, 0), SampleId("r", 0, 1), SampleId("r", 1, 0)]

    run(scenario)


def test_teacher_written_pairs_are_fixed():
    async def scenario():
        replay = buffer()
        await admit(replay, fixed(0, Source.TEACHER), 0)
        assert replay.num_fixed == 1

    run(scenario)


@pytest.mark.fault(21)
def test_draw_waits_until_both_kinds_suffice():
    async def scenario():
        replay = buffer()
        draw = asyncio.create_task(replay.draw(1, 2, 0))
        for scored in (student(0), student(1), fixed(2)):
            await admit(replay, scored, 0)
            await settle()
            assert not draw.done()
        await admit(replay, fixed(3), 0)
        assert indices(await draw) == [0, 2, 3]

    run(scenario)


def test_an_id_is_taken_once_whatever_its_kind_or_attempt():
    async def scenario():
        replay = buffer()
        assert await admit(replay, student(0), 0) is Admission.ADMITTED
        for again in (student(0), student(0, attempt=1), fixed(0)):
            assert await admit(replay, again, 0) is Admission.DUPLICATE
        await replay.draw(1, 0, 0)
        for again in (student(0, attempt=5), fixed(0)):
            assert await admit(replay, again, 0) is Admission.DUPLICATE
        assert replay.counters == {"admitted": 1, "duplicate": 5, "drawn": 1}

    run(scenario)


def test_ids_of_a_former_attempt_of_the_run_are_duplicates():
    async def scenario():
        first = buffer()
        await admit(first, student(0), 0)
        await admit(first, student(1), 0)
        await first.draw(1, 0, 0)
        resumed = buffer(drawn=SampleIdSet(first.drawn.ranges()))
        assert await admit(resumed, student(0), 0) is Admission.DUPLICATE
        assert await admit(resumed, student(1), 0) is Admission.ADMITTED, "admitted but never drawn"

    run(scenario)


def test_too_stale_is_refused_at_the_door_and_may_come_again():
    async def scenario():
        replay = buffer(max_staleness=1)
        assert await admit(replay, student(0, version=3, oldest=1), 3) is Admission.TOO_STALE
        assert await admit(replay, student(0, version=3, oldest=2, attempt=1), 3) is Admission.ADMITTED
        assert await admit(replay, fixed(1), 3) is Admission.ADMITTED

    run(scenario)


def test_version_the_learner_has_not_reached_is_refused():
    async def scenario():
        replay = buffer()
        assert await admit(replay, student(0, version=4), 3) is Admission.FROM_FUTURE
        assert replay.depth == 0

    run(scenario)


def test_older_news_of_the_version_do_not_bring_stale_work_back():
    async def scenario():
        replay = buffer()
        await admit(replay, student(0, version=5), 5)
        assert await admit(replay, student(1, version=4), 4) is Admission.TOO_STALE

    run(scenario)


def test_draw_evicts_what_became_too_stale_and_reports_it():
    async def scenario():
        evicted = []
        replay = buffer(max_staleness=1, on_evict=evicted.append)
        await admit(replay, student(0, version=0), 0)
        await admit(replay, student(1, version=1), 1)
        await admit(replay, fixed(2), 1)
        draw = asyncio.create_task(replay.draw(2, 1, 2))
        await settle()
        assert [group[0].trajectory.sample_id.prompt_index for group in evicted] == [0]
        assert not draw.done()
        assert await admit(replay, student(0, version=1), 2) is Admission.DUPLICATE, "the attempt that was evicted"
        assert await admit(replay, student(0, version=2, attempt=1), 2) is Admission.ADMITTED
        assert indices(await draw) == [0, 1, 2]
        assert await admit(replay, student(0, version=2, attempt=2), 2) is Admission.DUPLICATE
        assert replay.staleness_counts == {0: 1, 1: 1}
        assert replay.counters["evicted"] == 1

    run(scenario)


@pytest.mark.fault(20)
def test_admit_waits_while_its_kind_is_full_and_only_then():
    async def scenario():
        replay = buffer(capacity=2, batch_size=2)
        await admit(replay, student(0), 0)
        await admit(replay, student(1), 0)
        late = asyncio.create_task(admit(replay, student(2), 0))
        await settle()
        assert not late.done()
        assert await admit(replay, fixed(3), 0) is Admission.ADMITTED, "the other kind has its own space"
        assert await admit(replay, student(0), 0) is Admission.DUPLICATE, "a refusal needs no space"
        assert indices(await replay.draw(1, 1, 0)) == [0, 3]
        assert await late is Admission.ADMITTED
        assert replay.num_student == 2

    run(scenario)


def test_waiting_admissions_enter_in_order_of_arrival():
    async def scenario():
        replay = buffer(capacity=1, batch_size=1)
        await admit(replay, student(0), 0)
        order = []

        async def offer(index):
            await admit(replay, student(index), 0)
            order.append(index)

        tasks = [asyncio.create_task(offer(index)) for index in (5, 3, 9)]
        await settle()
        for expected in (0, 5, 3, 9):
            assert indices(await replay.draw(1, 0, 0)) == [expected]
            await settle()
        await asyncio.gather(*tasks)
        assert order == [5, 3, 9]

    run(scenario)


def test_a_newcomer_does_not_overtake_what_waits():
    async def scenario():
        replay = buffer(capacity=1, batch_size=1)
        await admit(replay, student(0), 0)
        waiting = asyncio.create_task(admit(replay, student(5), 0))
        await settle()

        async def draw_and_offer_at_once():
            await replay.draw(1, 0, 0)
            await admit(replay, student(9), 0)

        newcomer = asyncio.create_task(draw_and_offer_at_once())
        await settle()
        assert waiting.done() and not newcomer.done()
        assert indices(await replay.draw(1, 0, 0)) == [5]
        await newcomer

    run(scenario)


def test_newer_version_refuses_what_waits_for_space():
    async def scenario():
        replay = buffer(capacity=1, batch_size=1)
        await admit(replay, student(0), 0)
        late = asyncio.create_task(admit(replay, student(1), 0))
        await settle()
        draw = asyncio.create_task(replay.draw(1, 0, 1))
        assert await late is Admission.TOO_STALE
        assert await admit(replay, student(2, version=1), 1) is Admission.ADMITTED
        assert indices(await draw) == [2]

    run(scenario)


def test_of_two_waiting_admissions_of_one_id_one_is_a_duplicate():
    async def scenario():
        replay = buffer(capacity=1, batch_size=1)
        await admit(replay, student(0), 0)
        tasks = [asyncio.create_task(admit(replay, student(1, attempt=attempt), 0)) for attempt in range(2)]
        await settle()
        await replay.draw(1, 0, 0)
        assert await asyncio.gather(*tasks) == [Admission.ADMITTED, Admission.DUPLICATE]

    run(scenario)


def test_cancelled_calls_leave_nothing_behind():
    async def scenario():
        replay = buffer(capacity=1, batch_size=1)
        draw = asyncio.create_task(replay.draw(1, 0, 0))
        await settle()
        draw.cancel()
        await settle()
        await admit(replay, student(0), 0)
        assert replay.num_student == 1, "the cancelled draw takes nothing"
        first, second = (asyncio.create_task(admit(replay, student(index), 0)) for index in (1, 2))
        await settle()
        first.cancel()
        await settle()
        await replay.draw(1, 0, 0)
        assert await second is Admission.ADMITTED
        assert await asyncio.gather(first, return_exceptions=True) != [Admission.ADMITTED]
        assert indices(await replay.draw(1, 0, 0)) == [2]

    run(scenario)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"capacity": 3, "max_staleness": 0, "batch_size": 4}, "never fill a batch of 4"),
        ({"capacity": 4, "max_staleness": -1, "batch_size": 4}, "max_staleness"),
        ({"capacity": 4, "max_staleness": 0, "batch_size": 0}, "batch_size"),
    ],
)
def test_a_buffer_that_could_wait_for_ever_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ReplayBuffer(**arguments)


@pytest.mark.parametrize(("num_student", "num_fixed"), [(5, 0), (2, 3), (0, 0), (-1, 2)])
def test_draws_that_could_never_be_filled_are_refused(num_student, num_fixed):
    async def scenario():
        with pytest.raises(ValueError, match="cannot draw"):
            await buffer().draw(num_student, num_fixed, 0)

    run(scenario)


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(3, 5),
    plan=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=12),
    order=st.randoms(use_true_random=False),
)
def test_no_order_of_arrival_blocks_for_ever(capacity, plan, order):
    """Offers arrive in any order, all at once, against the smallest buffers; every draw still completes."""

    async def scenario():
        replay = buffer(capacity=capacity, batch_size=3)
        counts = [(number, 3 - number) for number, _ in plan]
        offers = []
        for num_student, num_fixed in counts:
            offers += [student(len(offers) + number) for number in range(num_student)]
            offers += [fixed(len(offers) + number) for number in range(num_fixed)]
        order.shuffle(offers)
        tasks = [asyncio.create_task(admit(replay, scored, 0)) for scored in offers]
        drawn = []
        for num_student, num_fixed in counts:
            batch = await replay.draw(num_student, num_fixed, 0)
            assert sum(each.scored.trajectory.source is Source.STUDENT for each in batch) == num_student
            drawn += indices(batch)
        await asyncio.gather(*tasks)
        assert sorted(drawn) == list(range(3 * len(plan)))

    run(scenario)


def pair_of(index, *, versions=((0, 0), (0, 0)), attempt=0):
    """Both samples of one prompt."""
    return [
        student(index, newest, oldest=oldest, repeat=repeat, attempt=attempt)
        for repeat, (oldest, newest) in enumerate(versions)
    ]


def test_the_samples_of_a_prompt_come_and_go_together():
    async def scenario():
        evicted = []
        replay = buffer(max_staleness=1, on_evict=evicted.append)
        await admit(replay, *pair_of(3), 0)
        await admit(replay, *pair_of(1, versions=((0, 1), (1, 1))), 1)
        draw = asyncio.create_task(replay.draw(2, 0, 2))
        await settle()
        assert [len(group) for group in evicted] == [2, 2], "one stale sample takes its prompt with it"
        assert not draw.done()
        await admit(replay, *pair_of(1, versions=((2, 2), (2, 2)), attempt=1), 2)
        assert indices(await draw) == [1, 1]

    run(scenario)


def test_a_number_that_splits_a_prompt_is_refused():
    async def scenario():
        replay = buffer()
        await admit(replay, *pair_of(0), 0)
        with pytest.raises(ValueError, match="split"):
            await replay.draw(1, 0, 0)

    run(scenario)


def test_used_ones_fill_up_a_draw_that_would_wait_until_they_are_used_up_or_stale():
    async def scenario():
        replay = buffer(capacity=2, max_staleness=2, batch_size=2, max_uses=2)
        await admit(replay, student(0), 0)
        await admit(replay, student(1), 0)
        first = await replay.draw(2, 0, 0)
        await admit(replay, student(2, version=1), 1)
        second = await replay.draw(2, 0, 1)
        assert [(each.scored.trajectory.sample_id.prompt_index, each.use) for each in first] == [(0, 1), (1, 1)]
        assert [(each.scored.trajectory.sample_id.prompt_index, each.use) for each in second] == [(0, 2), (2, 1)]
        third = await replay.draw(2, 0, 2)
        assert [(each.scored.trajectory.sample_id.prompt_index, each.use) for each in third] == [(1, 2), (2, 2)]
        late = asyncio.create_task(replay.draw(1, 0, 2))
        await settle()
        assert not late.done(), "everything is used up"
        late.cancel()
        assert replay.counters["drawn"] == 3 and replay.counters["drawn_again"] == 3
        await admit(replay, student(3, version=2), 2)
        await replay.draw(1, 0, 2)
        stale = asyncio.create_task(replay.draw(1, 0, 5))
        await settle()
        assert not stale.done(), "used once, but too old by now"
        stale.cancel()

    run(scenario)
