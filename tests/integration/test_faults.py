"""The short version of ``python -m benchmarks.faults``: killed processes, cut and silent links, broken messages."""

import pytest

from benchmarks.faults import KINDS, run_faults


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_faults_lose_no_image_and_answer_none_twice() -> None:
    outcome = await run_faults(2 * len(KINDS), seed=7, longest_s=1.0)
    assert outcome.kinds == dict.fromkeys(KINDS, 2)
    assert (outcome.lost, outcome.answered_twice, outcome.wrong, outcome.spool_left) == (0, 0, 0, 0)
    assert outcome.images > 100
