"""The automatic rate control over a real thin link, 40 s of it: what the ten minutes of `make bench-link` measure."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.thin_link import why_not

pytestmark = [pytest.mark.link, pytest.mark.timeout(240)]
REASON = why_not()


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_images_stay_young_and_the_link_is_used(tmp_path: Path) -> None:
    figures = tmp_path / "link.json"
    command = [sys.executable, "-m", "benchmarks.link", "--short", "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=220, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(figures.read_text())["rows"]
    run, steps = rows[0], [row for row in rows if row["part"] == "step"]
    assert run["dropped"] == 0
    assert run["age_p95_s"] < run["max_age_s"]
    assert run["share_used_backlogged"] is None or run["share_used_backlogged"] > 0.8
    scales = [step["rate_scale"] for step in steps]
    assert min(scales[1:4]) < scales[0], "the rate followed the link down"
    assert steps[2]["payload_bits"] < steps[0]["payload_bits"]
