"""The state machine of one slot: every edge there is, and every one that there is not."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_dist.config.supervision import SupervisionConfig
from gkd_dist.metrics.catalogue import DEATHS, REPLICA_STATES
from gkd_dist.supervision.health import EDGES, Event, IllegalTransitionError, Reason, SlotHealth, State

RULES = SupervisionConfig(
    failures_to_condemn=3, successes_to_clear=2, max_restarts=2, restart_backoff_s=1.0, max_restart_backoff_s=3.0
)

ACTIONS: dict[str, Callable[[SlotHealth, float], None]] = {
    "begin_start": SlotHealth.begin_start,
    "started": SlotHealth.started,
    "caught_up": SlotHealth.caught_up,
    "request_succeeded": SlotHealth.request_succeeded,
    "request_failed": SlotHealth.request_failed,
    "probe_succeeded": SlotHealth.probe_succeeded,
    "probe_failed": SlotHealth.probe_failed,
    "die": lambda health, now: health.die(now, Reason.DIED),
    "drain": SlotHealth.drain,
    "fall_behind": SlotHealth.fall_behind,
    "take_back": SlotHealth.take_back,
}

WAYS: dict[State, list[str]] = {
    State.DEAD: [],
    State.RESTARTING: ["begin_start"],
    State.STALE: ["begin_start", "started"],
    State.HEALTHY: ["begin_start", "started", "caught_up"],
    State.SUSPECT: ["begin_start", "started", "caught_up", "request_failed"],
    State.DRAINING: ["begin_start", "started", "caught_up", "drain"],
    State.RETIRED: ["begin_start", "die", "begin_start", "die", "begin_start", "die"],
}

LEADS: dict[State, dict[str, State]] = {
    State.DEAD: {"begin_start": State.RESTARTING},
    State.RESTARTING: {"started": State.STALE, "die": State.DEAD},
    State.STALE: {
        "caught_up": State.HEALTHY, "request_succeeded": State.STALE, "request_failed": State.STALE,
        "probe_succeeded": State.STALE, "probe_failed": State.STALE, "die": State.DEAD, "drain": State.DRAINING,
    },
    State.HEALTHY: {
        "request_succeeded": State.HEALTHY, "request_failed": State.SUSPECT,
        "probe_succeeded": State.HEALTHY, "probe_failed": State.SUSPECT, "die": State.DEAD, "drain": State.DRAINING,
        "fall_behind": State.STALE,
    },
    State.SUSPECT: {
        "request_succeeded": State.SUSPECT, "request_failed": State.SUSPECT,
        "probe_succeeded": State.SUSPECT, "probe_failed": State.SUSPECT, "die": State.DEAD, "drain": State.DRAINING,
        "fall_behind": State.STALE,
    },
    State.DRAINING: {
        "request_succeeded": State.DRAINING, "request_failed": State.DRAINING, "probe_succeeded": State.DRAINING,
        "probe_failed": State.DRAINING, "die": State.DEAD, "take_back": State.STALE,
    },
    State.RETIRED: {},
}  # fmt: skip
"""Where each action leads from each state; what is not listed is refused."""


def brought_to(state: State) -> tuple[SlotHealth, list[Event], float]:
    events: list[Event] = []
    health = SlotHealth(4, RULES, 0.0, events.append)
    now = 0.0
    for action in WAYS[state]:
        now += 10.0
        ACTIONS[action](health, now)
    assert health.state is state
    return health, events, now


@pytest.mark.parametrize(("state", "action"), itertools.product(State, ACTIONS), ids=str)
def test_every_action_leads_where_the_table_says_or_is_refused(state: State, action: str) -> None:
    health, events, now = brought_to(state)
    num_events = len(events)
    if action in LEADS[state]:
        ACTIONS[action](health, now + 10)
        assert health.state is LEADS[state][action]
        assert len(events) == num_events + (health.state is not state)
    else:
        with pytest.raises(IllegalTransitionError, match=f"slot 4 .*{state.value}"):
            ACTIONS[action](health, now + 10)
        assert health.state is state
        assert len(events) == num_events


@given(st.lists(st.sampled_from(sorted(ACTIONS)), max_size=40))
def test_whatever_happens_each_change_is_an_edge_and_service_follows_a_catch_up(actions: list[str]) -> None:
    events: list[Event] = []
    health = SlotHealth(0, RULES, 0.0, events.append)
    for now, action in enumerate(actions):
        try:
            ACTIONS[action](health, 10.0 * now)
        except IllegalTransitionError:
            continue
    state = State.DEAD
    for event in events:
        assert event.from_state is state
        assert event.to_state in EDGES[state]
        assert event.to_state is not State.HEALTHY or state in (State.STALE, State.SUSPECT)
        state = event.to_state
    assert health.state is state


def test_good_probes_never_excuse_failed_requests() -> None:
    health, _, now = brought_to(State.HEALTHY)
    for _ in range(RULES.failures_to_condemn):
        assert health.serves
        health.request_failed(now)
        for _ in range(5 if health.serves else 0):
            health.probe_succeeded(now)
            assert health.state is State.SUSPECT
    assert health.state is State.DEAD


def test_a_finished_request_ends_the_row_of_failures() -> None:
    health, _, now = brought_to(State.HEALTHY)
    for _ in range(10):
        health.request_failed(now)
        health.request_failed(now)
        health.request_succeeded(now)
    assert health.state is State.SUSPECT
    health.request_succeeded(now)
    assert health.state is State.HEALTHY


@pytest.mark.fault(4)
def test_no_catch_up_excuses_failed_requests() -> None:
    """Weights load well in an engine that never finishes a request, whether or not it serves meanwhile."""
    health, _, now = brought_to(State.HEALTHY)
    for _ in range(RULES.failures_to_condemn - 1):
        health.request_failed(now)
        health.fall_behind(now)
        health.caught_up(now)
        assert health.state is State.HEALTHY
    health.request_failed(now)
    assert health.state is State.DEAD


def test_failures_of_both_kinds_are_not_added_up() -> None:
    health, _, now = brought_to(State.HEALTHY)
    for _ in range(RULES.failures_to_condemn - 1):
        health.request_failed(now)
        health.probe_failed(now)
    assert health.state is State.SUSPECT
    health.probe_failed(now)
    assert health.state is State.DEAD


def test_what_requests_made_suspect_is_tried_again_after_a_while_only() -> None:
    health, _, now = brought_to(State.SUSPECT)
    assert not health.may_be_tried(now + RULES.probe_interval_s - 0.1)
    assert health.may_be_tried(now + RULES.probe_interval_s)
    by_probe, _, now = brought_to(State.HEALTHY)
    by_probe.probe_failed(now)
    assert not by_probe.may_be_tried(now + 1000)


@pytest.mark.fault(5)
def test_restarts_wait_longer_and_longer_and_come_to_an_end() -> None:
    events: list[Event] = []
    rules = RULES.model_copy(update={"max_restarts": 3})
    health = SlotHealth(0, rules, 0.0, events.append)
    waits = []
    while health.state is not State.RETIRED:
        now = health.restart_at
        health.begin_start(now)
        health.die(now, Reason.START, "no such model")
        waits.append(health.restart_at - now)
    assert waits[:3] == [1.0, 2.0, 3.0]  # the cap, instead of 4
    assert len(waits) == 4
    assert [event.reason for event in events[-2:]] == [Reason.START, Reason.EXHAUSTED]


@pytest.mark.fault(5)
@pytest.mark.parametrize("way_out", ["die", "request_failed", "probe_failed", "drain", "fall_behind"])
@pytest.mark.parametrize(("healthy_s", "is_forgiven"), [(599.9, False), (600.0, True)])
def test_restarts_are_forgiven_after_a_long_time_in_good_health_however_it_ends(
    way_out: str, healthy_s: float, is_forgiven: bool
) -> None:
    health, _, now = brought_to(State.HEALTHY)
    health.die(now, Reason.DIED)
    health.begin_start(now := health.restart_at)
    health.started(now)
    health.caught_up(now)
    assert health.num_restarts == 1
    ACTIONS[way_out](health, now + healthy_s)
    expected = 0 if is_forgiven else 1
    assert health.num_restarts == expected + (way_out == "die")


def test_trouble_in_between_is_no_long_time_in_good_health() -> None:
    health, _, now = brought_to(State.HEALTHY)
    health.die(now, Reason.DIED)
    health.begin_start(now := health.restart_at)
    health.started(now)
    health.caught_up(now)
    health.probe_failed(now + 300)
    for _ in range(RULES.successes_to_clear):
        health.probe_succeeded(now + 301)
    assert health.state is State.HEALTHY
    health.forgive(now + 900)
    assert health.num_restarts == 1
    health.forgive(now + 901)
    assert health.num_restarts == 0


def test_a_start_before_its_time_is_refused() -> None:
    health, _, now = brought_to(State.HEALTHY)
    health.die(now, Reason.DIED)
    with pytest.raises(IllegalTransitionError, match="may start at"):
        health.begin_start(now + 0.9)
    health.begin_start(now + 1.0)
    assert health.state is State.RESTARTING


def test_a_full_cluster_costs_no_restart_but_waits_longer_and_longer() -> None:
    health, _, now = brought_to(State.DEAD)
    waits = []
    for _ in range(20):
        health.begin_start(now)
        health.die(now, Reason.NO_ROOM)
        waits.append(health.restart_at - now)
        now = health.restart_at
    assert health.num_restarts == 0
    assert waits[:4] == [1.0, 2.0, 3.0, 3.0]
    assert health.state is State.DEAD


def test_being_scaled_away_costs_nothing() -> None:
    health, _, now = brought_to(State.DRAINING)
    health.die(now, Reason.SCALED)
    health.begin_start(now)
    assert health.num_restarts == 0


def test_the_catalogue_knows_every_state_and_every_death() -> None:
    assert {state.value for state in State} == set(REPLICA_STATES)
    assert set(DEATHS) <= {reason.value for reason in Reason}
