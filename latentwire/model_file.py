"""An entropy model's parameters as a file: an npz without pickles (docs/bundle-format.md).

A file is read as if its writer were hostile: nothing is unpacked before its size is known to be small, every array has
the one dtype that the format gives it, and all else is BundleCorruptError.
"""

import io
import re
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentwire.codec.parameters import PAYLOAD_FORMAT, CodecParameters, Frontier
from latentwire.errors import BundleCorruptError

MAX_MODEL_BYTES = 1 << 24  # unpacked: a thousand anchors in 512 entries have 12 MB
MAX_MEMBERS = 64
_SCALARS = ("ratios_per_octave", "named_by_head")
_FRONTIER_FIELDS = tuple(Frontier.__dataclass_fields__)
_NO_ARRAYS = ("frontier", "payload_format", *_SCALARS)
_ARRAY_FIELDS = tuple(f for f in CodecParameters.__dataclass_fields__ if f not in _NO_ARRAYS)
_INTEGERS = ("anchor_counts", "shapes", "shape_of", *_SCALARS)
_SINGLES = ("anchors", "location", "spread", "choice_spread")  # as stored; computed with in float64 but for the anchors
_NAMES = (*_ARRAY_FIELDS, *(f"frontier_{name}" for name in _FRONTIER_FIELDS), *_SCALARS)
_DTYPES = {name: "<i8" if name in _INTEGERS else "<f4" if name in _SINGLES else "<f8" for name in _NAMES}
# what numpy writes before an array; its own reader evaluates it, and makes room for whatever shape it says
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?s:..)\{'descr': '(<[fi][48])', 'fortran_order': False, "
    rb"'shape': \(((?:\d{1,9}, ?)*(?:\d{1,9})?)\), \} *\n"
)


def parameters_to_bytes(parameters: CodecParameters) -> bytes:
    """An entropy model's parameters as an npz without pickles; the same bytes for the same parameters."""
    values = {name: getattr(parameters, name) for name in (*_ARRAY_FIELDS, *_SCALARS)}
    values |= {f"frontier_{name}": getattr(parameters.frontier, name) for name in _FRONTIER_FIELDS}
    # rises are small and many alike, so the deflated file is a tenth of the cumulative one
    values["shapes"] = np.diff(parameters.shapes, axis=1)
    arrays: dict[str, NDArray[np.generic]] = {n: np.asarray(values[n], _DTYPES[n], order="C") for n in _NAMES}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def parameters_from_bytes(
    content: bytes, name: str = "entropy model", payload_format: int = PAYLOAD_FORMAT
) -> CodecParameters:
    """Read what ``parameters_to_bytes`` wrote; BundleCorruptError for anything else."""
    try:
        members = _members(content)
        arrays = {field: _array(members[field], _DTYPES[field]) for field in _NAMES}
        ratios_per_octave, named_by_head = (int(arrays.pop(field)) for field in _SCALARS)
        if arrays["shapes"].ndim != 2:
            raise ValueError("shapes must have two axes")
    except KeyError as error:
        raise _no_model(name, f"it holds no array {error}") from None
    except (TypeError, ValueError) as error:
        raise _no_model(name, str(error)) from None
    frontier = Frontier(**{field: arrays.pop(f"frontier_{field}") for field in _FRONTIER_FIELDS})
    rises = arrays.pop("shapes")
    shapes = np.concatenate([np.zeros((len(rises), 1), np.int64), np.cumsum(rises, axis=1)], axis=1)
    values: dict[str, Any] = {f: a.astype(np.float64) if f in _SINGLES[1:] else a for f, a in arrays.items()}
    parameters = CodecParameters(
        **values,
        shapes=shapes,
        ratios_per_octave=ratios_per_octave,
        named_by_head=bool(named_by_head),
        frontier=frontier,
        payload_format=payload_format,
    )
    parameters.check()
    return parameters


def _members(content: bytes) -> dict[str, bytes]:
    """The arrays' files by their names; ValueError for what is no npz, or would be too large."""
    # each member's entry in the archive's directory begins so; zipfile makes an object of each before it can be asked
    if len(content) > MAX_MODEL_BYTES or content.count(b"PK\x01\x02") > MAX_MEMBERS:
        raise ValueError(f"it has more than {MAX_MODEL_BYTES} bytes or {MAX_MEMBERS} members")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = [info for info in archive.infolist() if info.filename.removesuffix(".npy") in _DTYPES]
            if sum(info.file_size for info in infos) > MAX_MODEL_BYTES:
                raise ValueError(f"it unpacks to more than {MAX_MODEL_BYTES} bytes")
            if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in infos):
                raise ValueError("a member is packed neither by deflate nor not at all")
            return {info.filename.removesuffix(".npy"): _unpack(archive, info) for info in infos}
    except Exception as error:  # zipfile and zlib have a dozen for a broken file, RuntimeError among them
        raise ValueError(str(error) or type(error).__name__) from None


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as file:
        return file.read(info.file_size)  # with its size given, no more than that is unpacked


def _array(raw: bytes, dtype: str) -> NDArray[Any]:
    header = _HEADER.match(raw)
    if header is None or header[1] != dtype.encode():
        raise ValueError(f"an array is not of dtype {dtype} and in C order, as numpy writes it")
    shape = tuple(int(side) for side in header[2].split(b",") if side.strip())
    flat = np.frombuffer(raw, dtype, offset=header.end())
    return flat.reshape(shape)


def _no_model(name: str, reason: str) -> BundleCorruptError:
    return BundleCorruptError(f"{name} is no entropy model: {reason}; fetch or export the bundle again")
