"""What ``latentwire bench server`` prints: its rows in short, and what was aimed at."""

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.server.cases import OURS
from benchmarks.server.plan import LARGE

Rows = Sequence[dict[str, Any]]


def tables(rows: Rows) -> Iterator[tuple[str, Rows]]:
    """A title and the lines under it, of each part there is."""
    for part, title, line in (
        ("full load", "as fast as answers come, on one core: medians and quartiles of the rounds", _full_load),
        ("equal load", "latency where both serve the same images a second", _equal_load),
        ("idle streams", "latency and memory with idle streams beside the active ones", _idle),
    ):
        chosen = [line(row) for row in rows if row["part"] == part]
        if chosen:
            yield title, chosen


def aims(found: Rows) -> Rows:
    """What was aimed at, and what was found, for people."""
    return [
        {
            "bundle": row["bundle"],
            "aim": row["aim"],
            "wanted": row["target"],
            "ratio": f"{row['ratio']:.2f}",
            "held": "yes" if row["held"] else "no",
        }
        for row in found
    ]


def verdicts(rows: Rows) -> list[dict[str, Any]]:
    """A row for each aim that there is a measurement of."""
    found = []
    for said, wanted, below, matches in _AIMS:
        for row in rows:
            if all(test(row.get(name)) for name, test in matches.items()):
                ratio = row["ratio"]
                held = ratio < wanted if below else ratio >= wanted
                target = f"{'under' if below else 'at least'} {wanted:g}"
                aim = {"part": "aims", "bundle": row["bundle"], "aim": said, "target": target, "ratio": ratio}
                found.append(aim | {"held": held})
    return found


def _is(wanted: object) -> Any:
    return lambda value: value == wanted


def _ours(images_per_message: int, against: str, *, every_image: bool = True) -> dict[str, Any]:
    refined = _is(1.0) if every_image else lambda share: share is not None and share < 0.5
    return {
        "part": _is("full load"),
        "server": _is(OURS),
        "images_per_message": _is(images_per_message),
        "share_refined": refined,
        "against": _is(against),
    }


_AIMS: tuple[tuple[str, float, bool, dict[str, Any]], ...] = (
    ("64 images a message: images/s of the bare loop's", 0.9, False, _ours(LARGE, "bare loop")),
    ("1 image a message: images/s of the bare loop's", 0.4, False, _ours(1, "bare loop")),
    ("1 image a message: images/s of LitServe's", 3.0, False, _ours(1, "litserve")),
    ("1 image a message, a tenth refined: of LitServe's", 10.0, False, _ours(1, "litserve", every_image=False)),
    ("equal load: p99 of LitServe's", 1.0, True, {"part": _is("equal load"), "server": _is(OURS)}),
    ("idle streams: p99 added, in batch delays", 3.0, True, {"part": _is("idle streams")}),
)


def _full_load(row: dict[str, Any]) -> dict[str, Any]:
    ratio = f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})" if "ratio" in row else ""
    return {
        "data": row["data"],
        "server": row["server"],
        "images/message": row["images_per_message"],
        "refined": f"{row['share_refined']:.0%}" if "share_refined" in row else "100%",
        "images/s": f"{row['images_per_s']:,.0f}",
        "core": f"{row['cores_busy']:.0%}" if "cores_busy" in row else "",
        "p99 ms": f"{row['latency_p99_ms']:.1f}" if "latency_p99_ms" in row else "",
        "ratio": ratio,
        "against": row.get("against", ""),
    }


def _equal_load(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": row["data"],
        "server": row["server"],
        "images/s": f"{row['images_per_s']:,.0f}",
        "p50 ms": f"{row['latency_p50_ms']:.1f}",
        "p99 ms": f"{row['latency_p99_ms']:.1f}",
        "least and most": f"{row['latency_p99_low_ms']:.1f} to {row['latency_p99_high_ms']:.1f}",
    }


def _idle(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": row["data"],
        "idle": row["idle_streams"],
        "active": row["streams"],
        "images/s": f"{row['images_per_s']:,.0f}",
        "p50 ms": f"{row['latency_p50_ms']:.1f}",
        "p99 ms": f"{row['latency_p99_ms']:.1f}",
        "without the idle": f"{row['latency_p99_without_idle_ms']:.1f}",
        "KiB a stream": f"{row['kib_a_stream']:.0f}",
    }
