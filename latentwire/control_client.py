"""The control service from the caller's side: ``latentwire ctl``, the demo and programs use it."""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import grpc

from latentwire import errors, wire
from latentwire.messages import BundleInfo, Rate, RateControl, SensorInfo
from latentwire.tls import Access
from latentwire.v1 import control_pb2, control_pb2_grpc

T = TypeVar("T")


class ControlClient:
    """A synchronous client of one server; use it as a context manager. Threads may share it.

    Every method raises ServerUnavailableError when nobody answers, and the error that the server refused the
    call with, as the class of ``latentwire.errors`` that it names.
    """

    def __init__(self, target: str, timeout_s: float = 10.0, access: Access | None = None) -> None:
        """``target`` is HOST:PORT; ``timeout_s`` the deadline of the calls that do not wait for a sensor.

        ``access`` says how the server is reached and by what it knows us; None is plain text to this machine. Raises
        ``ValueError`` where that is not allowed, and CertificateError.
        """
        access = access or Access()
        access.check(target)
        self.target = target
        self.timeout_s = timeout_s
        self._secure = access.authority is not None
        credentials = access.credentials()
        self._channel = (
            grpc.insecure_channel(target) if credentials is None else grpc.secure_channel(target, credentials.get())
        )
        named = grpc.intercept_channel(self._channel, _Metadata(access.metadata))
        self._stub = control_pb2_grpc.ControlStub(named)

    def __enter__(self) -> "ControlClient":
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channel."""
        self.close()

    def close(self) -> None:
        """Close the channel; calls that still run end with ServerUnavailableError."""
        self._channel.close()

    def list_sensors(self) -> tuple[SensorInfo, ...]:
        """The sensors that have connected since the server started, by name."""
        request = control_pb2.ListSensorsRequest()
        response = self._call(lambda: self._stub.ListSensors(request, timeout=self.timeout_s))
        return tuple(map(wire.sensor_info_from_proto, response.sensors))

    def watch(self, interval_s: float = 1.0) -> Iterator[tuple[SensorInfo, ...]]:
        """``list_sensors`` now and after every change, at most every ``interval_s``; ends with the server."""
        call = self._stub.WatchSensors(control_pb2.WatchSensorsRequest(interval_s=interval_s))
        listings = iter(call)
        try:
            while (response := self._call(lambda: next(listings, None))) is not None:
                yield tuple(map(wire.sensor_info_from_proto, response.sensors))
        finally:
            call.cancel()

    def get_rate(self, sensor: str) -> Rate:
        """A sensor's operating point and what it costs; UnknownSensorError."""
        request = control_pb2.GetRateRequest(sensor=sensor)
        return wire.rate_from_proto(self._call(lambda: self._stub.GetRate(request, timeout=self.timeout_s)))

    def set_rate(self, sensor: str, rate_scale: float, timeout_s: float = 30.0) -> tuple[Rate, Rate]:
        """Turn a sensor's knob; returns the rate before, and after as measured on the first batch at it.

        Raises RateScaleError, UnknownSensorError, or CommandRefusedError if the sensor did not do it in time.
        """
        request = control_pb2.SetRateRequest(sensor=sensor, rate_scale=rate_scale)
        return self._set(lambda: self._stub.SetRate(request, timeout=timeout_s), sensor)

    def set_budget(self, sensor: str, bits_per_s: float | None) -> RateControl:
        """Put a ceiling on what a sensor sends, framing in; None lifts it. Returns who turns its knob now.

        Raises UnknownSensorError, or CommandRefusedError if the sensor did not do it in time.
        """
        request = control_pb2.SetBudgetRequest(sensor=sensor, bits_per_s=bits_per_s or 0.0)
        response = self._call(lambda: self._stub.SetBudget(request, timeout=self.timeout_s), _late(sensor))
        return wire.rate_control_from_proto(response.control)

    def set_automatic(self, sensor: str, automatic: bool = True, max_age_s: float | None = None) -> RateControl:
        """Have a sensor turn its knob by itself so that no image gets older than ``max_age_s``; like ``set_budget``.

        None keeps the sensor's own limit. ``set_rate`` ends it, and any budget.
        """
        request = control_pb2.SetAutomaticRequest(sensor=sensor, automatic=automatic, max_age_s=max_age_s or 0.0)
        response = self._call(lambda: self._stub.SetAutomatic(request, timeout=self.timeout_s), _late(sensor))
        return wire.rate_control_from_proto(response.control)

    def set_variant(self, sensor: str, variant: str, timeout_s: float = 30.0) -> tuple[Rate, Rate]:
        """Have a sensor use another encoder of its bundle; like ``set_rate``, or UnknownVariantError."""
        request = control_pb2.SetVariantRequest(sensor=sensor, variant=variant)
        return self._set(lambda: self._stub.SetVariant(request, timeout=timeout_s), sensor)

    def list_bundles(self) -> tuple[BundleInfo, ...]:
        """The bundles that the server can decode and hand out; its own first."""
        request = control_pb2.ListBundlesRequest()
        response = self._call(lambda: self._stub.ListBundles(request, timeout=self.timeout_s))
        return tuple(map(wire.bundle_info_from_proto, response.bundles))

    def push_bundle(
        self, sensor: str, bundle: str, variant: str | None = None, timeout_s: float = 3600.0
    ) -> tuple[Rate, Rate]:
        """Have a sensor fetch and run a bundle of the server's, named by model id or digest; like ``set_rate``.

        ``variant`` None keeps the present one if the bundle has it. Raises also BundleNotFoundError, or BundleError
        if several have that name.
        """
        request = control_pb2.PushBundleRequest(sensor=sensor, bundle=bundle, variant=variant or "")
        return self._set(lambda: self._stub.PushBundle(request, timeout=timeout_s), sensor)

    def _set(self, call: Callable[[], control_pb2.SetRateResponse], sensor: str) -> tuple[Rate, Rate]:
        response = self._call(call, _late(sensor))
        return wire.rate_from_proto(response.before), wire.rate_from_proto(response.after)

    def _call(self, call: Callable[[], T], when_late: str = "") -> T:
        try:
            return call()
        except grpc.RpcError as error:
            self._raise(error, when_late)

    def _raise(self, error: grpc.RpcError, when_late: str) -> NoReturn:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and when_late:
            raise errors.CommandRefusedError(when_late) from error
        if code in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.CANCELLED,
        ):
            hint = "start 'latentwire server', or correct --server"
            if self._secure:
                hint += f"; if there is one, its log says whether it refused this certificate (here: {details})"
            raise errors.ServerUnavailableError(f"no server answers at {self.target}: {hint}") from error
        raise errors.error_named(details) or errors.LatentwireError(
            f"the server answered {code.name}: {details}"
        ) from error


class _Metadata(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Puts who we are into every call."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._with(client_call_details), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._with(client_call_details), request)

    def _with(self, details: Any) -> Any:
        return details._replace(metadata=(*(details.metadata or ()), *self._metadata))


def _late(sensor: str) -> str:
    return f"sensor {sensor!r} did not carry the command out in time"
