"""The ``Control`` service: people and programs see the sensors and turn their knobs."""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from edge_server.connection import Core
from edge_server.moves import ANSWER_MARGIN_S, Moves
from edge_server.pipeline import ServedPoint
from edge_server.rate_control import command_rate_control
from edge_server.registry import Registry, Sensor, rate_of
from edge_server.rights import audit
from edge_server.stats import PointCounts
from edge_server.status import or_refuse
from latentwire import messages as m
from latentwire import wire
from latentwire.errors import (
    CommandRefusedError,
    LatentwireError,
    MalformedMessageError,
)
from latentwire.v1 import control_pb2, control_pb2_grpc

if TYPE_CHECKING:
    from typing import Any

    import grpc

    Context = grpc.aio.ServicerContext[Any, Any]

MIN_WATCH_INTERVAL_S = 0.1
MAX_WATCH_INTERVAL_S = 60.0

T = TypeVar("T")


class ControlService(control_pb2_grpc.ControlServicer):
    """Control calls; every one that changes something is logged with its caller and result."""

    def __init__(self, core: Core, registry: Registry, command_timeout_s: float) -> None:
        """``command_timeout_s`` caps the wait for a sensor."""
        self._core = core
        self._registry = registry
        self._command_timeout_s = command_timeout_s
        self._moves = Moves(core, registry)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End the watches, which otherwise go on for as long as their callers like."""
        self._stopping.set()

    async def ListSensors(
        self, request: control_pb2.ListSensorsRequest, context: "Context"
    ) -> control_pb2.ListSensorsResponse:
        """All sensors that have connected since the server started."""
        return self._listing()

    async def WatchSensors(  # type: ignore[override]  # the stub has no place for the write style of grpc.aio
        self, request: control_pb2.WatchSensorsRequest, context: "Context"
    ) -> None:
        """A list at once, then one whenever something changed."""
        await or_refuse(context, self._watch(request.interval_s or 1.0, context))

    async def GetRate(self, request: control_pb2.GetRateRequest, context: "Context") -> control_pb2.Rate:
        """A sensor's current operating point and what it costs."""
        return await or_refuse(context, self._get_rate(request))

    async def SetRate(self, request: control_pb2.SetRateRequest, context: "Context") -> control_pb2.SetRateResponse:
        """Turn a sensor's knob; answers when the first batch at the new rate has been decoded."""
        action = f"SetRate sensor={request.sensor[:128]!r} rate_scale={request.rate_scale:g}"
        return await or_refuse(context, self._logged(action, context, self._set_rate(request, context)))

    async def SetVariant(
        self, request: control_pb2.SetVariantRequest, context: "Context"
    ) -> control_pb2.SetRateResponse:
        """Have a sensor use another encoder of its bundle; answers like SetRate."""
        action = f"SetVariant sensor={request.sensor[:128]!r} variant={request.variant[:128]!r}"
        return await or_refuse(context, self._logged(action, context, self._moves.set_variant(request, context)))

    async def ListBundles(
        self, request: control_pb2.ListBundlesRequest, context: "Context"
    ) -> control_pb2.ListBundlesResponse:
        """The bundles that can be decoded and handed out."""
        return await or_refuse(context, self._moves.list_bundles())

    async def PushBundle(
        self, request: control_pb2.PushBundleRequest, context: "Context"
    ) -> control_pb2.SetRateResponse:
        """Have a sensor fetch and run another bundle; answers when the first batch coded with it has been decoded."""
        action = f"PushBundle sensor={request.sensor[:128]!r} bundle={request.bundle[:128]!r}"
        return await or_refuse(context, self._logged(action, context, self._moves.push_bundle(request, context)))

    async def SetBudget(
        self, request: control_pb2.SetBudgetRequest, context: "Context"
    ) -> control_pb2.SetBudgetResponse:
        """Put a ceiling on what a sensor sends, or lift it; answers when the sensor keeps to it."""
        action = f"SetBudget sensor={request.sensor[:128]!r} bits_per_s={request.bits_per_s:g}"
        command = m.SetRateControl(0, budget_bits_per_s=request.bits_per_s)
        call = self._control_rate(request.sensor, command, context)
        control = await or_refuse(context, self._logged(action, context, call))
        return control_pb2.SetBudgetResponse(control=wire.rate_control_to_proto(control))

    async def SetAutomatic(
        self, request: control_pb2.SetAutomaticRequest, context: "Context"
    ) -> control_pb2.SetAutomaticResponse:
        """Have a sensor turn its knob by itself, or no longer; answers when it does."""
        action = f"SetAutomatic sensor={request.sensor[:128]!r} {request.automatic} max_age_s={request.max_age_s:g}"
        command = m.SetRateControl(0, automatic=request.automatic, max_age_s=request.max_age_s or None)
        call = self._control_rate(request.sensor, command, context)
        control = await or_refuse(context, self._logged(action, context, call))
        return control_pb2.SetAutomaticResponse(control=wire.rate_control_to_proto(control))

    async def _watch(self, interval_s: float, context: "Context") -> None:
        if not 0 < interval_s < math.inf:
            raise MalformedMessageError(f"interval_s must be a positive number of seconds, not {interval_s}")
        interval_s = min(max(interval_s, MIN_WATCH_INTERVAL_S), MAX_WATCH_INTERVAL_S)
        shown = None
        while not self._stopping.is_set():
            listing = self._listing()
            if listing != shown:
                await context.write(listing)
                shown = listing
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), interval_s)

    async def _get_rate(self, request: control_pb2.GetRateRequest) -> control_pb2.Rate:
        return wire.rate_to_proto(self._registry.find(request.sensor).rate())

    def _listing(self) -> control_pb2.ListSensorsResponse:
        sensors = self._registry.sensors()
        return control_pb2.ListSensorsResponse(sensors=[wire.sensor_info_to_proto(s.info()) for s in sensors])

    async def _logged(self, action: str, context: "Context", call: Awaitable[T]) -> T:
        """Await a call that changes something, and log who called it and how it ended."""
        started = time.monotonic()
        result = "InternalError"
        try:
            answer = await call
            result = "done"
            return answer
        except LatentwireError as error:
            result = f"{error.error_name}: {error}"
            raise
        except asyncio.CancelledError:
            result = "cancelled"
            raise
        finally:
            audit(action, context.peer(), result, time.monotonic() - started)
            self._core.totals.control_actions[action.partition(" ")[0], result.partition(":")[0]] += 1

    async def _set_rate(self, request: control_pb2.SetRateRequest, context: "Context") -> control_pb2.SetRateResponse:
        sensor = self._registry.find(request.sensor)
        now = _served(sensor)
        point, derive = now.point, self._core.library.derive
        # ahead of the command: that checks the request and has the tables ready
        await asyncio.get_running_loop().run_in_executor(
            self._core.tables, derive, now.bundle, point.variant, point.model, request.rate_scale
        )
        return await self._change(sensor, context, request.rate_scale)

    async def _control_rate(self, name: str, command: m.SetRateControl, context: "Context") -> m.RateControl:
        return await command_rate_control(self._registry.find(name), command, self._timeout_s(context))

    def _timeout_s(self, context: "Context") -> float:
        left_s = context.time_remaining()  # None without a deadline, whatever the stub says
        return min(self._command_timeout_s, math.inf if left_s is None else max(0.0, left_s - ANSWER_MARGIN_S))

    async def _change(self, sensor: Sensor, context: "Context", rate_scale: float) -> control_pb2.SetRateResponse:
        """Send the command, wait for the first batch that shows it done; one at a time a sensor."""
        timeout_s = self._timeout_s(context)
        try:
            async with asyncio.timeout(timeout_s), sensor.command_turn:
                if sensor.link is None:
                    raise CommandRefusedError(f"sensor {sensor.name!r} is not connected; see 'ctl sensors'")
                before, before_id, control = _served(sensor), sensor.current, sensor.rate_control.control
                command = sensor.commands.issue()
                try:
                    sensor.link.send(m.SetOperatingPoint(command.id, rate_scale=rate_scale))
                    first = await command.done
                finally:
                    sensor.commands.forget(command)
        except TimeoutError:
            raise CommandRefusedError(
                f"sensor {sensor.name!r} sent no batch at the new operating point within {timeout_s:.1f} s; "
                "it may do so yet: see 'ctl rate get'"
            ) from None
        assert command.served is not None, "what is done was announced"
        after = rate_of(command.served, PointCounts(first.images, first.payload_bits, first.refined))
        after = replace(after, control=sensor.rate_control.control)
        was = replace(rate_of(before, sensor.counts.point(before_id)), control=control)
        return control_pb2.SetRateResponse(before=wire.rate_to_proto(was), after=wire.rate_to_proto(after))


def _served(sensor: Sensor) -> ServedPoint:
    assert sensor.served is not None, "a sensor is found once its operating points are verified"
    return sensor.served
