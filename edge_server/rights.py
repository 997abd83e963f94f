"""Who may call what, and how much at once: one table, held in front of every service.

What it does not name, nobody may call.
"""

import inspect
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from edge_server.identity import Identities
from edge_server.open_calls import OpenCalls
from edge_server.status import refusal
from latentwire.errors import IdentityError, NotAllowedError, ServerFullError
from latentwire.identity import Identity

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]

# None: everyone who can connect, for whom it is only what the public schema and a port scan tell anyway.
RIGHTS: dict[str, frozenset[str] | None] = {
    "latentwire.v1.Sensors": frozenset({"sensor"}),
    "latentwire.v1.Bundles": frozenset({"sensor", "admin"}),
    "latentwire.v1.Control": frozenset({"admin"}),
    "grpc.health.v1.Health": None,
    "grpc.reflection.v1.ServerReflection": None,
    "grpc.reflection.v1alpha.ServerReflection": None,
}

# Set by the gate for the call that runs, None where nobody is asked; without a gate there is none, and none is let in.
_caller: ContextVar[Identity | None] = ContextVar("caller")

PUBLIC_CALLS = 1024
PUBLIC_CALLS_A_PEER = 64

log = logging.getLogger("latentwire.server")
audit_log = logging.getLogger("latentwire.audit")


@dataclass(frozen=True, slots=True)
class _Gate:
    """Lets calls of one method through, or ends them."""

    method: str
    roles: frozenset[str] | None
    identities: Identities
    calls: OpenCalls
    refused: Counter[tuple[str, str]]

    async def enter(self, context: "Context") -> ExitStack:
        """To be held while the call lasts; the call is ended if the caller may not, or has too many."""
        _caller.set(None)
        try:
            who = None if self.roles is None else await self.identities.of(context)
            _caller.set(who)
            if who is not None and self.roles is not None and who.role not in self.roles:
                raise NotAllowedError(f"{who} may not call {self.method}")
            return self.calls.one_more(context.peer(), who)
        except (IdentityError, ServerFullError) as error:
            peer, name = context.peer(), error.error_name
            self.refused[self.method.split("/")[1], name] += 1
            log.warning("refused method=%s peer=%s error=%s message=%r", self.method, peer, name, str(error))
            if self.method.startswith("/latentwire.v1.Control/"):
                audit(self.method.rpartition("/")[2], peer, f"{name}: {error}")
            await context.abort(*refusal(error))
            raise AssertionError("abort raises") from None


class RightsInterceptor(grpc.aio.ServerInterceptor):
    """Asks who calls before a handler runs, wherever the method is not everyone's."""

    def __init__(self, identities: Identities, calls: OpenCalls, refused: Counter[tuple[str, str]]) -> None:
        """``identities`` are what peers are known by; in ``refused`` those are counted who were not let in."""
        self._identities = identities
        self._calls = calls
        self._calls_of_everyone = OpenCalls(PUBLIC_CALLS, PUBLIC_CALLS_A_PEER)  # so that a full server says it is well
        self._refused = refused

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The method's handler, behind its gate."""
        handler = await continuation(handler_call_details)
        service = handler_call_details.method.lstrip("/").partition("/")[0]
        roles = RIGHTS.get(service, frozenset())
        if handler is None:
            return handler
        calls = self._calls_of_everyone if roles is None else self._calls
        return _gated(handler, _Gate(handler_call_details.method, roles, self._identities, calls, self._refused))


def check_speaks_for(sensor: str) -> None:
    """Raise NotAllowedError unless the caller is the sensor of that name, or nobody is asked who they are."""
    who = _caller.get()
    if who is not None and who != Identity("sensor", sensor):
        raise NotAllowedError(f"{who} says hello as sensor {sensor!r}")


def audit(action: str, peer: str, result: str, seconds: float = 0.0) -> None:
    """One line for one control action of the present caller: who, what, when (the record's time), how it ended."""
    who = _caller.get()
    name = "anyone" if who is None else str(who)
    fields = {"action": action, "who": name, "peer": peer, "seconds": round(seconds, 3), "result": result}
    audit_log.info("%s who=%s peer=%s seconds=%.3f result=%r", action, name, peer, seconds, result, extra=fields)


def _gated(handler: "Handler", gate: _Gate) -> "Handler":
    """The same handler behind ``gate``; of the same kind, for gRPC looks at what a function is."""
    kind = f"{'stream' if handler.request_streaming else 'unary'}_{'stream' if handler.response_streaming else 'unary'}"
    inner: Callable[..., Any] = getattr(handler, kind)

    async def call(request: Any, context: "Context") -> Any:
        with await gate.enter(context):
            return await inner(request, context)

    async def generate(request: Any, context: "Context") -> AsyncIterator[Any]:
        with await gate.enter(context):
            async for response in inner(request, context):
                yield response

    make = getattr(grpc, f"{kind}_rpc_method_handler")
    gated: Handler = make(
        generate if inspect.isasyncgenfunction(inner) else call,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return gated
