"""The table from error to gRPC status, and the way back."""

import grpc
import pytest

from edge_server.status import MAX_DETAILS_CHARACTERS, refusal
from latentwire import errors
from latentwire.errors import error_named

ALL = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.LatentwireError)]
KEPT_OUT = [errors.NotAuthenticatedError, errors.NotAllowedError]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.MalformedMessageError, grpc.StatusCode.INVALID_ARGUMENT),
        (errors.ProtocolVersionError, grpc.StatusCode.UNIMPLEMENTED),
        (errors.BundleMismatchError, grpc.StatusCode.FAILED_PRECONDITION),
        (errors.TableDigestError, grpc.StatusCode.FAILED_PRECONDITION),
        (errors.UnknownOperatingPointError, grpc.StatusCode.FAILED_PRECONDITION),
        (errors.SequenceError, grpc.StatusCode.FAILED_PRECONDITION),
        (errors.ProtocolError, grpc.StatusCode.ABORTED),
        (errors.RateScaleError, grpc.StatusCode.INVALID_ARGUMENT),
        (errors.UnknownVariantError, grpc.StatusCode.NOT_FOUND),
        (errors.UnknownSensorError, grpc.StatusCode.NOT_FOUND),
        (errors.CommandRefusedError, grpc.StatusCode.FAILED_PRECONDITION),
        (errors.ServerUnavailableError, grpc.StatusCode.UNAVAILABLE),
        (errors.ChecksumError, grpc.StatusCode.DATA_LOSS),  # by way of CorruptPayloadError
        (errors.InferenceError, grpc.StatusCode.INTERNAL),
    ],
)
def test_each_error_has_its_status(error: type[errors.LatentwireError], code: grpc.StatusCode) -> None:
    assert refusal(error("what is wrong")) == (code, f"{error.__name__}: what is wrong")


@pytest.mark.parametrize("error", [error for error in ALL if error not in KEPT_OUT])
def test_every_error_comes_back_as_itself(error: type[errors.LatentwireError]) -> None:
    back = error_named(refusal(error("one: two"))[1])
    assert type(back) is error
    assert str(back) == "one: two"


@pytest.mark.parametrize("error", KEPT_OUT)
def test_who_is_kept_out_is_not_told_why(error: type[errors.NotAuthenticatedError | errors.NotAllowedError]) -> None:
    back = error_named(refusal(error("the secret reason"))[1])
    assert type(back) is error
    assert str(back) == error.told


@pytest.mark.parametrize("details", ["", "Deadline Exceeded", "ValueError: x", "__doc__: x", "annotations: x"])
def test_other_details_name_no_error_of_ours(details: str) -> None:
    assert error_named(details) is None


def test_details_are_one_line_and_fit_a_header() -> None:
    _, details = refusal(errors.MalformedMessageError("a\nb " + "x" * 5000))
    assert details.startswith("MalformedMessageError: a b x")
    assert len(details) == MAX_DETAILS_CHARACTERS
