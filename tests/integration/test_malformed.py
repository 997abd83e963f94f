"""The short of ``python -m benchmarks.malformed``: every kind of wrong message, beside streams that are right."""

import asyncio

from benchmarks.malformed import Asked, run
from benchmarks.malformed_parts import BREACHES


async def test_malformed_messages_crash_nothing_and_change_no_answer() -> None:
    asked = Asked(messages=1000, per_s=1000, streams=4, every_s=0.05, attack_s=60, calm_s=0.3)
    outcome = await asyncio.to_thread(run, asked)
    assert outcome.failures() == []
    assert outcome.attack.sent.total() == 1000
    assert {*BREACHES, "crc", "flipped", "cut", "longer", "noise"} <= outcome.attack.sent.keys()
    assert outcome.attack.refused.total() + outcome.attack.harmless == 1000
    assert outcome.heard.took_s and outcome.status == 0
