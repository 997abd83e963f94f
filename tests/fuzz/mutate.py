"""Mutations: valid bytes in, bytes out that a broken or hostile peer might send."""

import json
import random
import re
import struct
from typing import Any

from latentwire.v1 import stream_pb2

from .corpus import Corpus, npz_of

NUMBERS = (0, 1, 2, 15, 16, 17, 255, 256, 1023, 1024, 1025, 65535, 2**31 - 1, 2**31, 2**32 - 1)
DOUBLES = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-310, 5e-324, 1e-30, 1e9, 1e30, 1e308, -1e308, float("inf"), float("nan"))
SHAPES = ("()", "(0,)", "(1,)", "(8,)", "(1, 8)", "(2, 1, 8)", "(999999999, 999999999)", "(-1,)", "(8", "(1e9,)")
JSON_VALUES: tuple[Any, ...] = (
    None, True, 0, 1, -1, 2**31, 2**63, 10**400, 1e308, "", "a", "\0", "../x", "x" * 300, "\ud800", [], {}, [[]],
)  # fmt: skip


def mutate_bytes(data: bytes, other: bytes, r: random.Random) -> bytes:
    """One to four of: bits flipped, bytes set, cut, put in, said twice, spliced with ``other``; or all random."""
    if r.random() < 0.02:
        return r.randbytes(r.randrange(200))
    out = bytearray(data)
    for _ in range(r.choice((1, 1, 1, 2, 4))):
        at = r.randrange(len(out) + 1)
        end = min(at + r.choice((1, 2, 4, 16, 64)), len(out))
        match r.randrange(8):
            case 0 | 1 | 2 if at < len(out):
                out[at] ^= 1 << r.randrange(8)
            case 3 if at < len(out):
                out[at] = r.choice((0, 255, 127, 128, r.randrange(256)))
            case 4:
                del out[at:end]
            case 5:
                out[at:at] = r.choice((r.randbytes(end - at), bytes(end - at), b"\xff" * 40))
            case 6:
                out[at:at] = out[at:end] * r.choice((1, 1, 50))
            case _:
                out[at:] = other[r.randrange(len(other) + 1) :]
    return bytes(out)


def mutate_message(corpus: Corpus, r: random.Random) -> bytes:
    """A sensor's message: its bytes mutated, or a batch's fields one by one, so that its payload is reached."""
    kind = r.random()
    if kind < 0.05:
        return mutate_bytes(r.choice(corpus.others), r.choice(corpus.others), r)
    data, other = _batch(corpus, r), _batch(corpus, r)
    if kind < 0.35:
        return mutate_bytes(data, other, r)
    proto = stream_pb2.SensorMessage.FromString(data)
    donor = stream_pb2.SensorMessage.FromString(other).batch
    batch = proto.batch
    match r.randrange(12):
        case 0:
            batch.images = r.choice((*NUMBERS, donor.images, batch.images ^ 1))
        case 1:
            batch.operating_point = r.choice((*corpus.served, donor.operating_point, r.choice(NUMBERS)))
        case 2:
            batch.crc32 = r.choice((donor.crc32, batch.crc32 ^ (1 << r.randrange(32)), r.randrange(2**32)))
        case 3:
            batch.payload = r.choice((donor.payload, b"", b"\0" * 9, b"\xff" * 2000, r.randbytes(r.randrange(4000))))
        case 4:
            batch.payload += r.choice((b"\0", b"\0" * 1000, b"\x01", donor.payload, r.randbytes(r.choice((1, 2**20)))))
        case 5:
            batch.payload = batch.payload[: r.randrange(len(batch.payload) + 1)]
        case _:
            batch.payload = mutate_bytes(batch.payload, donor.payload, r)
    mutated: bytes = proto.SerializeToString()
    return mutated


def _batch(corpus: Corpus, r: random.Random) -> bytes:
    """A large one now and then: the larger, the rarer, but the largest not never."""
    return corpus.batches[-1 - r.randrange(len(corpus.served))] if r.random() < 0.01 else r.choice(corpus.batches)


def mutate_model(corpus: Corpus, r: random.Random) -> bytes:
    """An entropy model: the npz's bytes, or one array's, packed anew so that the archive's own checksum holds."""
    which = r.randrange(len(corpus.models))
    if r.random() < 0.2:
        return mutate_bytes(corpus.models[which], r.choice(corpus.models), r)
    members = dict(corpus.members[which])
    for _ in range(r.choice((1, 1, 2, 3))):
        name = r.choice(list(members))
        members[name] = _mutate_array(members[name], r.choice(list(corpus.members))[name], r)
    if r.random() < 0.05:
        del members[r.choice(list(members))]
    return npz_of(members, deflate=r.random() < 0.1)


def _mutate_array(raw: bytes, other: bytes, r: random.Random) -> bytes:
    header = re.match(rb"(?s:.{10})\{'descr': '<(f4|f8|i8)'[^(]*(\(.*?\)).*\n", raw)
    if header is None:  # an earlier mutation broke it already
        return mutate_bytes(raw, other, r)
    body, dtype, shape = header.end(), header[1], header[2]
    match r.randrange(10):
        case 0:
            return mutate_bytes(raw, other, r)
        case 1:
            return other
        case 2:
            return raw.replace(shape, r.choice(SHAPES).encode().ljust(len(shape)), 1)
        case 3:
            return raw.replace(dtype, r.choice((b"f8", b"i8", b"f4", b"i1", b"O8", b"c9")), 1)
        case _:
            out, item = bytearray(raw), int(dtype[1:])
            for _ in range(r.choice((1, 1, 3))):
                at = body + item * r.randrange(max(1, (len(raw) - body) // item))
                out[at : at + item] = _number(dtype, r)
            return bytes(out)


def _number(dtype: bytes, r: random.Random) -> bytes:
    if dtype == b"i8":
        return struct.pack("<q", r.choice((*NUMBERS, -1, 2**40, 2**63 - 1, -(2**63))))
    value = r.choice(DOUBLES) * r.choice((1.0, r.random()))
    with_range = value if dtype == b"f8" or not 3e38 < abs(value) < float("inf") else 3e38
    return struct.pack("<d" if dtype == b"f8" else "<f", with_range)


def mutate_manifest(corpus: Corpus, r: random.Random) -> bytes:
    """A manifest: its bytes, or one of its values, or deep nesting."""
    data = corpus.manifests[0]
    if r.random() < 0.4:
        return mutate_bytes(data, r.choice(corpus.manifests), r)
    if r.random() < 0.02:
        return b'{"format_version": ' + r.choice((b"[", b'{"a":')) * 100_000
    tree = json.loads(data)
    node, key = tree, r.choice(list(tree))
    while isinstance(node[key], dict | list) and node[key] and r.random() < 0.8:
        node = node[key]
        key = r.choice(list(node) if isinstance(node, dict) else range(len(node)))
    if r.random() < 0.2:
        del node[key]
    else:
        node[key] = r.choice(JSON_VALUES)
    return json.dumps(tree).encode()
