"""How an error is told to a peer: the one table from error class to gRPC status."""

import logging
from collections.abc import Awaitable
from typing import Any, TypeVar

import grpc

from latentwire import errors

T = TypeVar("T")

log = logging.getLogger("latentwire.server")

MAX_DETAILS_CHARACTERS = 1024  # details travel in an HTTP/2 header, of which many peers take 8 KiB at most

# Looked up along a class's bases, so a row speaks for all below it that have none of their own.
STATUS_OF_ERROR: dict[type[BaseException], grpc.StatusCode] = {
    errors.LatentwireError: grpc.StatusCode.INTERNAL,
    errors.RateScaleError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.BundleError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.BundleNotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.UnknownVariantError: grpc.StatusCode.NOT_FOUND,
    errors.CorruptPayloadError: grpc.StatusCode.DATA_LOSS,
    errors.ProtocolError: grpc.StatusCode.ABORTED,  # the bare class: the session's own newer stream took over
    errors.MalformedMessageError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ProtocolVersionError: grpc.StatusCode.UNIMPLEMENTED,
    errors.BundleMismatchError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.TableDigestError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnknownOperatingPointError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SequenceError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SupersededError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotAuthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.NotAllowedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.ControlError: grpc.StatusCode.UNIMPLEMENTED,
    errors.UnknownSensorError: grpc.StatusCode.NOT_FOUND,
    errors.CommandRefusedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ServerUnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.ServerFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def refusal(error: errors.LatentwireError) -> tuple[grpc.StatusCode, str]:
    """The status that ends a call for ``error``, and its details: ``ErrorName: message`` in one line.

    What keeps a peer out is not told to it, but a general sentence.
    """
    code = next(STATUS_OF_ERROR[base] for base in type(error).__mro__ if base in STATUS_OF_ERROR)
    message = error.told if isinstance(error, errors.NotAuthenticatedError | errors.NotAllowedError) else str(error)
    details = " ".join(f"{error.error_name}: {message}".split())
    return code, details[:MAX_DETAILS_CHARACTERS]


async def or_refuse(context: "grpc.aio.ServicerContext[Any, Any]", call: Awaitable[T]) -> T:
    """Await ``call``, or end the RPC with the status of its error; an unforeseen one is logged, not told."""
    try:
        return await call
    except errors.LatentwireError as error:
        await context.abort(*refusal(error))
    except grpc.aio.BaseError:  # gRPC's own: the call has ended already
        raise
    except Exception:
        log.exception("unforeseen error in a call from peer=%s", context.peer())
        await context.abort(grpc.StatusCode.INTERNAL, "InternalError: see the server's log")
