"""The rate controller on a simulated link: what must hold on any link, and how it follows one that changes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rate_control_sim import BITS, RUNGS, Run, World, simulate, steps

from edge_sensor.rate_control import Controller, Plan, Seen
from edge_sensor.rate_control_budget import BURST_S
from edge_sensor.rate_control_costs import Rung

LINKS = (64e3, 32e3, 16e3, 8e3, 4e3, 2e3)


def controller(max_age_s: float = 4.0, start: int = 8, **options: float) -> Controller:
    return Controller(RUNGS, start, max_age_s, **options)


def backlogged_use(run: Run, link: float, from_s: float, to_s: float) -> float:
    """Share of the time in which the link worked, of the time in which images waited that could have been sent."""
    waited = [busy for at, waiting, busy in run.waiting if from_s <= at < to_s and waiting > link * 0.05]
    return sum(waited) / len(waited) if waited else 1.0


@pytest.mark.parametrize("burst_bits", [0.0, 4800.0])
@pytest.mark.parametrize("scenes", [0.0, 0.5])
def test_down_to_2_kbit_and_back_the_age_stays_under_its_limit(burst_bits: float, scenes: float) -> None:
    rates, each_s, limit_s = [*LINKS, *reversed(LINKS[:-1])], 40.0, 4.0
    world = World(steps(rates, each_s), burst_bits=burst_bits, scene_s=0.7, scenes=scenes)
    run = simulate(controller(limit_s), world, each_s * len(rates))
    for number, rate in enumerate(rates):
        start, end = number * each_s, (number + 1) * each_s
        assert run.worst_age(start + 3, end) < limit_s, f"p95 at {rate:g} bit/s"
        assert run.swing(start + 12, end) <= 1, f"at {rate:g} bit/s"
        assert backlogged_use(run, rate, start + 3, end) > 0.8
    assert run.left_out == run.pushed_out == 0, "the lowest rung fits 2 kbit/s, so nothing is dropped"
    assert run.rungs_in(20, 40) == {10}, "64 kbit/s carry the highest rung"


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    link=st.floats(3e3, 2e5),
    trip_s=st.floats(0.001, 0.4),
    trip_known=st.booleans(),
    burst_bits=st.sampled_from([0.0, 4800.0]),
    around_bits=st.floats(300, 1200),
    scale=st.floats(0.6, 1.4),
    noise=st.floats(0, 0.3),
    start=st.integers(0, len(BITS) - 1),
    seed=st.integers(0, 99),
)
def test_on_a_steady_link_images_are_young_and_the_rung_still(
    link: float,
    trip_s: float,
    trip_known: bool,
    burst_bits: float,
    around_bits: float,
    scale: float,
    noise: float,
    start: int,
    seed: int,
) -> None:
    world = World(
        lambda _: link,
        trip_s=trip_s,
        trip_known=trip_known,
        burst_bits=burst_bits,
        around_bits=around_bits,
        scale=scale,
        noise=noise,
        jitter_s=trip_s / 4,
        seed=seed,
    )
    run = simulate(controller(4.0, start), world, 80)
    assert run.worst_age(25, 80) < 4.0
    assert run.swing(30, 80) <= 1
    assert run.pushed_out == 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_is_seen_the_plan_is_one_that_can_be_carried_out(data: st.DataObject) -> None:
    control = controller(data.draw(st.floats(0.2, 60)), data.draw(st.integers(0, 10)))
    now_s, keys = 0.0, 0
    for _ in range(data.draw(st.integers(1, 30))):
        now_s += data.draw(st.floats(0, 10))
        match data.draw(st.sampled_from(["sent", "answered", "coded", "crossed", "cut"])):
            case "sent":
                control.sent(keys := keys + 1, data.draw(st.integers(1, 1024)), data.draw(st.floats(1, 1e6)), now_s)
            case "answered":
                control.delivery.answered(data.draw(st.integers(0, keys)), now_s)
            case "coded":
                images = data.draw(st.integers(1, 1024))
                control.costs.coded(control.plan.rung, images, data.draw(st.floats(8, 1e6)))
            case "crossed":
                messages, images = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 1024))
                control.costs.crossed(messages, images, data.draw(st.floats(8, 1e6)), data.draw(st.floats(0, 1e7)))
            case "cut":
                control.delivery.cut()
        ages = sorted(data.draw(st.tuples(st.floats(0, 1e5), st.floats(0, 1e5))))
        before = control.plan
        images_per_s, unsent = data.draw(st.tuples(st.none() | st.floats(0, 1e4), st.floats(0, 1e6)))
        plan = control.step(Seen(images_per_s, ages[1], ages[0], unsent), now_s)
        assert 0 <= plan.rung < len(RUNGS)
        assert 0 < plan.keep <= 1
        assert plan.keep == 1 or plan.rung == 0, "images are left out only when no rung is lower"
        assert plan.rung <= before.rung or plan.keep == before.keep == 1
        assert control.send_in_s(now_s) >= 0
        assert 0 <= control.close_in_s(ages[0], unsent, now_s) <= control.max_age_s


def test_a_rung_too_much_is_left_within_a_second_of_the_link_slowing_down() -> None:
    run = simulate(controller(2.0), World(steps([64e3, 8e3], 30)), 45)
    assert min(run.rungs_in(29, 30)) >= 9
    assert min(run.rungs_in(30, 32)) <= 6
    assert run.worst_age(33, 45) < 2.0


def test_what_does_not_fit_at_the_lowest_rung_is_left_out_evenly_and_comes_back() -> None:
    world = World(steps([16e3, 2e3, 64e3], 40), images_per_s=4000, capacity=30_000)
    run = simulate(controller(4.0, 0), world, 120)
    assert run.worst_age(60, 80) < 4.0
    kept = [keep for at, keep in run.keeps if 60 <= at < 80]
    assert 0.02 < min(kept) <= max(kept) < 1
    assert run.left_out > 10_000
    assert run.pushed_out == 0
    assert all(keep == 1 for at, keep in run.keeps if at > 115)


def test_where_the_round_trip_is_not_known_images_are_young_all_the_same() -> None:
    run = simulate(controller(4.0, 0), World(lambda _: 64e3, trip_s=0.6, trip_known=False, images_per_s=200), 60)
    assert run.worst_age(20, 60) < 4.0


def test_a_source_that_waits_loses_nothing() -> None:
    run = simulate(controller(4.0), World(lambda _: 4e3, live=False), 60)
    assert run.left_out == run.pushed_out == 0
    assert run.worst_age(20, 60) < 4.0


def test_a_long_round_trip_is_no_slow_link() -> None:
    run = simulate(controller(4.0, 0), World(lambda _: 64e3, trip_s=0.6, images_per_s=200), 120)
    assert min(run.rungs_in(100, 120)) == len(BITS) - 1
    assert run.worst_age(60, 120) < 4.0


@settings(max_examples=12, deadline=None, derandomize=True)
@given(budget=st.floats(2e3, 3e4), start=st.integers(0, 10))
def test_a_budget_is_never_passed(budget: float, start: int) -> None:
    run = simulate(controller(4.0, start, budget_bits_per_s=budget), World(lambda _: 2e5), 40)
    largest = max(bits for _, bits in run.sent_bits)
    for from_s in range(0, 40, 2):
        for to_s in range(from_s + 2, 41, 2):
            assert run.bits_in(from_s, to_s) <= budget * (to_s - from_s + BURST_S) + largest
    assert run.worst_age(15, 40) < 4.0
    assert run.bits_in(15, 40) > 0.4 * 25 * min(budget, 3e4), "and it is made use of"


@pytest.mark.parametrize("cap", [0.5, 5.0, 29.0])
def test_no_rung_passes_the_cap_on_bits_an_image(cap: float) -> None:
    control = Controller(RUNGS, 10, 4.0, max_image_bits=cap)
    run = simulate(control, World(lambda _: 1e6, noise=0.0), 60)
    assert all(BITS[rung] <= cap for at, rung in run.rungs if at > 0.5)
    assert max(run.rungs_in(40, 60)) == max(i for i, bits in enumerate(BITS) if bits <= cap)


def test_a_cap_below_the_lowest_rung_leaves_the_lowest() -> None:
    control = Controller(RUNGS, 3, 4.0, max_image_bits=0.01)
    assert control.step(Seen(10.0, 0.0, 0.0), 0.0) == Plan(0)


def test_failed_rises_are_tried_ever_more_rarely() -> None:
    run = simulate(controller(2.0), World(lambda _: 32e3, burst_bits=4800), 120)
    high = max(run.rungs_in(20, 120))
    rises = sum(a < b == high for (_, a), (_, b) in zip(run.rungs, run.rungs[1:], strict=False))
    assert rises <= 120 / 10 + 1


def test_a_rise_that_failed_is_taken_back_by_one_rung_though_the_link_needs_time_to_recover() -> None:
    control, full_s = controller(4.0), -9.0

    def link(now_s: float) -> float:
        nonlocal full_s
        if control.plan.rung == 10:  # too much: a queue on the way runs over, and what it loses is sent again
            full_s = now_s
        return 26e3 if now_s - full_s < 1.5 else 54e3

    run = simulate(control, World(link, burst_bits=4800), 120)
    assert run.rungs_in(20, 120) == {9, 10}
    assert run.worst_age(20, 120) < 4.0


def test_one_rung_is_enough() -> None:
    run = simulate(Controller([Rung("full", 1.0, BITS[0])], 0, 2.0), World(lambda _: 16e3), 20)
    assert run.rungs_in(0, 20) == {0}
    assert run.worst_age(5, 20) < 2.0
