"""Delivery rate, costs and budget, each by itself."""

import pytest

from edge_sensor.rate_control_budget import Budget
from edge_sensor.rate_control_costs import MESSAGE_BYTES, REMEMBERED_MESSAGES, Costs, Rung
from edge_sensor.rate_control_delivery import Delivery

RUNGS = (Rung("full", 0.1, 4.0), Rung("full", 1.0, 10.0), Rung("full", 2.0, 40.0))


def test_messages_that_queue_tell_the_links_rate() -> None:
    delivery = Delivery()
    for number in range(5):  # 1000 bits each second, the next one always handed over before
        delivery.sent(number, 1000, number)
        if number:
            delivery.answered(number - 1, number + 0.5)
    rate = delivery.rate(4.6)
    assert rate is not None
    assert rate.firm
    assert rate.bits_per_s == pytest.approx(1000)
    assert delivery.bits_under_way == 1000


def test_a_message_by_itself_is_a_lower_bound() -> None:
    delivery = Delivery()
    delivery.sent(0, 1000, 0.0)
    delivery.answered(0, 0.5)
    rate = delivery.rate(0.6)
    assert rate is not None
    assert not rate.firm
    assert rate.bits_per_s == pytest.approx(2000)
    assert delivery.rate(100.0) == rate, "the last few samples are kept"


def test_a_stall_shows_before_any_answer() -> None:
    delivery = Delivery()
    for number in range(4):
        delivery.sent(number, 1000, number)
        delivery.answered(number, number + 0.1)
    delivery.sent(4, 1000, 4.0)
    delivery.sent(5, 1000, 4.0)
    before, after = delivery.rate(4.1), delivery.rate(6.1)
    assert before is not None
    assert before.bits_per_s == pytest.approx(10_000)
    assert after is not None
    assert after.firm
    assert after.bits_per_s == pytest.approx(500)
    assert delivery.drain_s(6.1) == pytest.approx(2000 / 500 - 2.1)


def test_a_burst_of_answers_is_no_fast_link() -> None:
    delivery = Delivery()
    for number in range(3):
        delivery.sent(number, 1000, 0.0)
    for number in range(3):
        delivery.answered(number, 3.0 + number * 1e-4)
    rate = delivery.rate(3.1)
    assert rate is not None
    assert not rate.firm
    assert rate.bits_per_s == pytest.approx(1000, rel=1e-3)


def test_nothing_is_known_before_the_first_answer_and_after_a_cut() -> None:
    delivery = Delivery()
    assert delivery.rate(0.0) is None
    assert delivery.drain_s(0.0) == 0
    delivery.sent(0, 1000, 0.0)
    assert delivery.drain_s(1.0) == float("inf")
    delivery.answered(0, 1.0)
    delivery.answered(0, 1.0)  # again: ignored
    delivery.sent(1, 1000, 1.0)
    delivery.cut()
    assert delivery.rate(1.0) is None
    assert delivery.bits_under_way == delivery.drain_s(1.0) == 0


def test_memory_does_not_grow() -> None:
    delivery, costs = Delivery(), Costs(RUNGS)
    for number in range(20_000):
        delivery.sent(number, 100, number / 10)
        delivery.answered(number, number / 10 + 0.05)
        costs.coded(number % 3, 8, 64.0)
    assert len(delivery._samples) < 100
    assert len(delivery._trips) < 500
    assert len(costs._seen) == 3


def test_what_is_seen_at_one_rung_corrects_the_others() -> None:
    costs = Costs(RUNGS)
    assert [costs.image_bits(rung) for rung in range(3)] == [4.0, 10.0, 40.0]
    for _ in range(50):
        costs.coded(1, 100, 700.0)  # 7 bits an image where the bundle says 10
    assert costs.image_bits(1) == pytest.approx(7.0, abs=1e-3)
    assert costs.image_bits(0) == pytest.approx(1.0, abs=1e-3)
    assert costs.image_bits(2) == pytest.approx(37.0, abs=1e-3)
    for _ in range(50):
        costs.coded(0, 100, 800.0)  # dearer than the rung above was: a higher rung never costs less
    assert costs.image_bits(1) == pytest.approx(8.0, abs=1e-3)
    for _ in range(REMEMBERED_MESSAGES):
        costs.coded(0, 100, 100.0)
    assert costs.image_bits(1) == pytest.approx(7.0), "what was seen long ago is forgotten: 10 - 3"


def test_framing_is_learnt_from_what_the_socket_sent() -> None:
    costs, share, answer = Costs(RUNGS), 1 + 52 / 1448, 8 * 52 * 5 / (2 * 1448)
    assert costs.message_bits(0, 0) == pytest.approx(8 * MESSAGE_BYTES * share)
    for _ in range(100):
        costs.crossed(2, 300, payload_bits=1600.0, link_bits=(1600.0 + 2 * 500) * share + 300 * answer)
    assert costs.message_bits(100, 800.0) == pytest.approx(1300 * share + 100 * answer)
    costs.segments_of(524, 1000)
    assert costs.message_bits(100, 800.0) == pytest.approx(1300 * (1 + 52 / 524) + 100 * 8 * 52 * 5 / 2000)
    assert costs.demand(0, 100.0, 0.5) == pytest.approx((400 + 1000) * (1 + 52 / 524) + 100 * 8 * 52 * 5 / 2000)


def test_one_odd_moment_does_not_carry_the_framing_away() -> None:
    costs = Costs(RUNGS)
    costs.crossed(1, 1, 100.0, 1e9)
    assert costs.around_bits < 8 * 2000
    costs.crossed(1, 1024, 1e9, 0.0)
    assert costs.around_bits > 0


def test_a_budget_lets_a_debt_be_paid_first() -> None:
    budget = Budget(1000.0)
    assert budget.wait_s(0.0) == 0
    budget.spent(1500.0, 0.0)
    assert budget.wait_s(0.0) == pytest.approx(1.5)
    assert budget.wait_s(1.0) == pytest.approx(0.5)
    budget.spent(-500.0, 1.0)  # fewer than thought
    assert budget.wait_s(1.0) == 0
    budget.spent(2000.0, 100.0)  # what was saved is one second's worth
    assert budget.wait_s(100.0) == pytest.approx(1.0)


def test_no_budget_no_wait() -> None:
    budget = Budget(None)
    budget.spent(1e9, 0.0)
    assert budget.wait_s(0.0) == 0
