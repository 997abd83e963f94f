"""The sensor: source -> encoder -> codec -> stream. ONNX Runtime, never torch."""

from edge_sensor.config import SensorConfig
from edge_sensor.ledger import SensorReport
from edge_sensor.run import run_sensor

__all__ = ["SensorConfig", "SensorReport", "run_sensor"]
