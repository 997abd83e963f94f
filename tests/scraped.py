"""What a process tells Prometheus, as numbers."""

import urllib.request

from prometheus_client.parser import text_string_to_metric_families


def scraped(port: int | None, prefix: str) -> dict[str, float]:
    """Each sample at a port of this machine by its name, without ``prefix``, and labels: ``name{key=value,...}``."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[sample.name.removeprefix(prefix) + (f"{{{labels}}}" if labels else "")] = sample.value
    return found
