"""Every error that Latentwire raises on purpose.

::

    LatentwireError
    ├── RateScaleError (ValueError)       the knob is out of the bundle's range, or no number
    ├── BundleError                       the folder on disk is not a bundle we can use
    │   ├── BundleNotFoundError           nothing there
    │   ├── BundleCorruptError            a file is missing, altered or malformed
    │   ├── BundleVersionError            a format version we do not speak
    │   ├── SignatureError                not signed by the key that is trusted
    │   └── UnknownVariantError           the bundle holds no such variant or entropy model
    ├── CodecError
    │   ├── NonFiniteLatentError          ours: a latent holds NaN or infinity
    │   └── CorruptPayloadError           the peer's: bytes that are no message of these tables
    │       └── ChecksumError             they decode, but to other symbols than were coded
    ├── ProtocolError                     the peer broke the protocol; nothing was decoded
    │   ├── MalformedMessageError         a field is missing, out of range or over a limit
    │   ├── ProtocolVersionError          a protocol version we do not speak
    │   ├── BundleMismatchError           the peer runs another bundle
    │   ├── TableDigestError              both have the bundle, yet their tables differ
    │   ├── UnknownOperatingPointError    a batch names an operating point never announced
    │   ├── SequenceError                 a batch leaves a hole in the sequence
    │   └── SupersededError               another process took this sensor's name
    ├── IdentityError                     who somebody is, and what they may do
    │   ├── CertificateError              ours: a certificate, key or token cannot be made, read or used
    │   ├── NotAuthenticatedError         the peer's: it does not say who it is, or is not known
    │   └── NotAllowedError               the peer's: it is known, and may not do that
    ├── ControlError                      a control call cannot be done
    │   ├── UnknownSensorError            no sensor of that name has connected
    │   └── CommandRefusedError           the sensor refused the command, or did not answer in time
    ├── SourceError                       the image source cannot be opened or has ended badly
    │   ├── ImageError                    one image cannot be read; the rest of the source is fine
    │   └── BrokenTailError               a recorded source ends before what it says of itself
    ├── SpoolError                        the file that keeps coded messages cannot be used
    │   ├── SpoolDamagedError             it, or one of its messages, is not as it was written
    │   └── DiskFullError                 there is no room on the disk
    ├── ServerUnavailableError            nobody answers at the address
    │   └── ServerFullError               it has as many streams as it takes, or as one peer may have
    ├── ListenError                       the address cannot be listened on
    ├── InferenceError                    an ONNX graph cannot be loaded or run
    ├── DataError                         a data set is missing or unusable
    ├── CheckpointError                   a checkpoint is of another run, or cannot be saved
    └── TrainingError                     training cannot go on (a NaN loss, out of memory)
        └── StoppedError              it was asked to stop, and has saved

A ``LatentwireError`` says in one line what is wrong and what to do; the command line prints that line and
exits with status 1. What a peer sent is refused with its error's class name (``error_name``), so that both
sides speak of it by one word.
"""


class LatentwireError(Exception):
    """Base of all errors raised on purpose."""

    @property
    def error_name(self) -> str:
        """The class's name: the word by which a refusal is known on the wire and in logs."""
        return type(self).__name__


class RateScaleError(LatentwireError, ValueError):
    """The rate scale is not a number inside the bundle's range."""


class BundleError(LatentwireError):
    """The folder on disk is not a bundle that can be used."""


class BundleNotFoundError(BundleError):
    """There is no bundle at the path."""


class BundleCorruptError(BundleError):
    """A file of the bundle is missing, altered, foreign or malformed."""


class BundleVersionError(BundleError):
    """The bundle's format version is not supported."""


class SignatureError(BundleError):
    """The bundle is not signed, or not by the key that is trusted; or a key cannot be read."""


class UnknownVariantError(BundleError):
    """The bundle holds no variant, or no entropy model, of that name."""


class CodecError(LatentwireError):
    """Coding or decoding failed."""


class NonFiniteLatentError(CodecError):
    """A latent holds NaN or infinity and cannot be quantized."""


class CorruptPayloadError(CodecError):
    """The bytes are no message of these tables."""


class ChecksumError(CorruptPayloadError):
    """The bytes decode, but not to the symbols that were coded."""


class ProtocolError(LatentwireError):
    """The peer broke the protocol."""


class MalformedMessageError(ProtocolError):
    """A field is missing, out of range or over a limit."""


class ProtocolVersionError(ProtocolError):
    """The peer speaks a protocol version that is not supported."""


class BundleMismatchError(ProtocolError):
    """The peer runs another bundle."""


class TableDigestError(ProtocolError):
    """Both sides have the bundle, yet derive different tables."""


class UnknownOperatingPointError(ProtocolError):
    """A batch names an operating point that was never announced."""


class SequenceError(ProtocolError):
    """A batch leaves a hole in the sequence."""


class SupersededError(ProtocolError):
    """Another process took this sensor's name on the server."""


class IdentityError(LatentwireError):
    """Who somebody is, and what they may do."""


class CertificateError(IdentityError):
    """A certificate, a key or a token cannot be made, read or used."""


class NotAuthenticatedError(IdentityError):
    """The peer does not say who it is, or is not known. Why is for the server's log; peers are told ``told``."""

    told = "this server does not know you: give a certificate or a token that it knows"


class NotAllowedError(IdentityError):
    """The peer is known, and may not do that. Why is for the server's log; peers are told ``told``."""

    told = "you may not do that on this server: ask who runs it"


class ControlError(LatentwireError):
    """A control call cannot be done."""


class UnknownSensorError(ControlError):
    """No sensor of that name is known."""


class CommandRefusedError(ControlError):
    """The sensor refused the command or did not answer in time."""


class SourceError(LatentwireError):
    """The image source cannot be opened, or ended badly."""


class ImageError(SourceError):
    """One image cannot be read; the rest of the source is fine."""


class BrokenTailError(SourceError):
    """A recorded source ends before what it says of itself."""


class SpoolError(LatentwireError):
    """The file that keeps coded messages cannot be used."""


class SpoolDamagedError(SpoolError):
    """The spool, or one of its messages, is not as it was written."""


class DiskFullError(SpoolError):
    """There is no room on the disk."""


class ServerUnavailableError(LatentwireError):
    """Nobody answers at the server's address."""


class ServerFullError(ServerUnavailableError):
    """The server has as many streams and calls as it takes, or as one peer may have."""


class ListenError(LatentwireError):
    """The address cannot be listened on."""


class InferenceError(LatentwireError):
    """An ONNX graph cannot be loaded or run."""


class DataError(LatentwireError):
    """A data set is missing or unusable."""


class CheckpointError(LatentwireError):
    """A checkpoint is of another run, damaged, or cannot be saved."""


class TrainingError(LatentwireError):
    """Training cannot go on."""


class StoppedError(TrainingError):
    """A training was asked to stop, and has saved where it is."""


def error_named(details: str) -> LatentwireError | None:
    """The error that a status message names (``ErrorName: message``); None if it names none of these."""
    name, colon, message = details.partition(": ")
    found = globals().get(name) if colon else None
    if isinstance(found, type) and issubclass(found, LatentwireError):
        return found(message)
    return None
