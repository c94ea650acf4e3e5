"""What shares a resource ends when its share says so."""

import asyncio
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gkd_dist.planning.controller import DriverCosts
from gkd_dist.planning.spreading import depth_of
from gkd_dist.simulation.driver import Driver
from gkd_dist.simulation.scenario import SamplerRates, WeightRates
from gkd_dist.simulation.shared import Shared
from gkd_dist.simulation.virtual_loop import run_virtual
from gkd_dist.simulation.weights import Distribution

FLOWS = st.lists(st.tuples(st.floats(0.0, 20.0), st.floats(0.1, 50.0)), min_size=1, max_size=8)


def ends(flows: list[tuple[float, float]], rate: float, most: int) -> list[float]:
    """When each of (start, amount) ends over a resource whose `rate` all flows share."""

    async def flow(shared: Shared, start: float, amount: float) -> float:
        await asyncio.sleep(start)
        await shared.join()
        await shared.flow(amount)
        return asyncio.get_running_loop().time()

    async def main() -> list[float]:
        shared = Shared(lambda number: rate / number, most)
        return list(await asyncio.gather(*(flow(shared, *each) for each in flows)))

    return run_virtual(main())


def ends_by_steps(flows: list[tuple[float, float]], rate: float) -> list[float]:
    """The same by walking from event to event; all flow at once."""
    left = {number: amount for number, (_, amount) in enumerate(flows)}
    now, found = 0.0, [0.0] * len(flows)
    while left:
        active = [number for number in left if flows[number][0] <= now]
        begins = [flows[number][0] for number in left if flows[number][0] > now]
        if not active:
            now = min(begins)
            continue
        speed = rate / len(active)
        end = min(now + min(left[number] for number in active) / speed, *begins, float("inf"))
        for number in active:
            left[number] -= (end - now) * speed
        now = end
        for number in [number for number in active if left[number] < 1e-9]:
            found[number] = now
            del left[number]
    return found


@given(flows=FLOWS)
@settings(max_examples=60, deadline=None)
def test_a_link_is_shared_equally_at_every_moment(flows: list[tuple[float, float]]) -> None:
    assert ends(flows, 3.0, 99) == pytest.approx(ends_by_steps(flows, 3.0), rel=1e-6, abs=1e-4)


def test_who_finds_no_place_waits_in_line() -> None:
    assert ends([(0.0, 4.0), (1.0, 2.0), (1.5, 2.0)], 2.0, 1) == pytest.approx([2.0, 3.0, 4.0])


def test_nothing_advances_while_it_is_held() -> None:
    async def main() -> tuple[float, float]:
        loop, shared = asyncio.get_running_loop(), Shared(lambda _: 1.0)
        await shared.join()
        flow = asyncio.create_task(shared.flow(4.0))
        await asyncio.sleep(1.0)
        shared.hold()
        await asyncio.sleep(10.0)
        shared.go_on()
        await flow
        return loop.time(), shared.busy_s

    assert run_virtual(main()) == pytest.approx((14.0, 14.0))


@pytest.mark.parametrize("waits", [False, True])
def test_a_cancelled_flow_leaves_its_place(waits: bool) -> None:
    """Whether it flowed or waited in line."""

    async def use(shared: Shared) -> None:
        await shared.join()
        await shared.flow(10.0)

    async def main() -> tuple[float, float]:
        shared = Shared(lambda number: 1.0 / number, 1)
        tasks = []
        for _ in range(3):
            tasks.append(asyncio.create_task(use(shared)))
            await asyncio.sleep(0)
        await asyncio.sleep(1.0)
        tasks[1 if waits else 0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        ended = asyncio.get_running_loop().time()
        await use(shared)  # no place is lost: it would wait in line for ever
        return ended, asyncio.get_running_loop().time() - ended

    assert run_virtual(main()) == pytest.approx((20.0 if waits else 21.0, 10.0))


def test_a_driver_does_one_thing_after_the_other() -> None:
    async def main() -> tuple[list[float], float]:
        driver = Driver(DriverCosts(call_s=0.5, sequence_s=0.25))

        async def call(num_sequences: int) -> float:
            await driver.call(num_sequences)
            return asyncio.get_running_loop().time()

        return list(await asyncio.gather(call(0), call(2), call(1))), driver.busy_s

    assert run_virtual(main()) == ([0.5, 1.5, 2.25], 2.25)


@pytest.mark.parametrize(("fan_out", "depths"), [(1, [1, 2, 3, 4]), (2, [1, 1, 2, 2, 2, 2, 3]), (3, [1, 1, 1, 2])])
def test_places_of_a_tree(fan_out: int, depths: list[int]) -> None:
    assert [depth_of(place, fan_out) for place in range(len(depths))] == depths


def arrivals(rates: WeightRates, samplers: Iterable[int]) -> list[float]:
    """When each of these has a version that all ask for at once."""

    async def receive(distribution: Distribution, sampler: int) -> float:
        await distribution.receive(1, sampler)
        return asyncio.get_running_loop().time()

    async def main() -> list[float]:
        distribution = Distribution(rates)
        return list(await asyncio.gather(*(receive(distribution, each) for each in samplers)))

    return run_virtual(main())


@pytest.mark.parametrize(("fan_out", "seconds"), [(0, 40.0), (2, 2 * 1.0 * (1 + 4 / 10))])
@pytest.mark.parametrize("slow_readers", [False, True])
@pytest.mark.parametrize("per_node", [1, 8])
def test_weights_over_one_link_and_down_a_tree(fan_out: int, seconds: float, slow_readers: bool, per_node: int) -> None:
    """40 nodes, one second each; in the tree of pairs the last of 40 is 5 hops below the learner, of 10 pieces."""
    node_bytes_per_s = 1e9 / 80 if slow_readers else 1e9
    rates = WeightRates(1e9, 1e9, node_bytes_per_s, samplers_per_node=per_node, fan_out=fan_out, num_pieces=10)

    if slow_readers:  # 80 s for one to read it, whoever sends
        seconds = 80 * seconds if fan_out else 80.0
    assert max(arrivals(rates, range(40 * per_node))) == pytest.approx(seconds)
    assert rates.spread_s(40) == pytest.approx(seconds)
    assert rates.spread_s(0) == 0


def test_a_node_that_is_not_full_reads_as_one() -> None:
    """17 samplers, 8 to a node: three nodes."""
    rates = WeightRates(1e9, 1e9, 1e9, samplers_per_node=8)
    assert arrivals(rates, range(17)) == pytest.approx([3.0] * 17)
    assert rates.num_nodes(17) == rates.spread_s(rates.num_nodes(17)) == 3


def test_a_sampler_that_asks_later_finds_its_node_s_copy_and_a_newer_version_is_read() -> None:
    async def main() -> list[float]:
        loop, distribution = asyncio.get_running_loop(), Distribution(WeightRates(1e9, 1e9, 1e9, samplers_per_node=2))
        found = []
        for version, sampler in ((1, 0), (1, 1), (1, 0), (2, 1), (2, 0), (2, 2)):
            begun = loop.time()
            await distribution.receive(version, sampler)
            found.append(loop.time() - begun)
        return found

    assert run_virtual(main()) == pytest.approx([1.0, 0.0, 0.0, 1.0, 0.0, 1.0])


def test_a_sampler_that_dies_does_not_take_its_node_s_copy_with_it() -> None:
    async def main() -> float:
        distribution = Distribution(WeightRates(1e9, 1e9, 1e9, samplers_per_node=2))
        first = asyncio.create_task(distribution.receive(1, 0))
        await asyncio.sleep(0.25)
        second = asyncio.create_task(distribution.receive(1, 1))
        await asyncio.sleep(0.25)
        first.cancel()
        await second
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(1.0)


def test_a_node_without_samplers_is_refused() -> None:
    with pytest.raises(ValueError, match="samplers_per_node"):
        WeightRates(samplers_per_node=0)


def test_the_mean_of_cut_answers_is_that_of_many_draws() -> None:
    from gkd_dist.simulation.engines import answer_tokens
    from gkd_dist.types import SampleId

    rates = SamplerRates(median_tokens=600, sigma=0.7, max_tokens=1536)
    lengths = [answer_tokens(rates, 7, SampleId("run", index)) for index in range(20_000)]
    assert sum(lengths) / len(lengths) == pytest.approx(rates.mean_tokens, rel=0.015)  # 3 standard errors are 1.2 %
    assert max(lengths) == 1536
