"""GGUF files, v2 and v3, whole or split: a reader and a writer made from the specification alone."""

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import blocks

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
BY_ID = {t.id: t.name for t in blocks.TYPES.values() if not t.name.startswith("Q2_0")}


@dataclass
class Tensor:
    name: str
    type: str
    rows: int
    cols: int
    data: bytes
    dims: int = 2

    def weights(self):
        return blocks.decode(self.type, self.rows, self.cols, self.data)


class _Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        value = struct.unpack_from("<" + form, self.data, self.at)[0]
        self.at += struct.calcsize("<" + form)
        return value

    def string(self):
        length = self.take("Q")
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            inner = self.take("I")
            return [self.value(inner) for _ in range(self.take("Q"))]
        return self.take(SCALARS[kind])


def _q2_0_layout(rows, cols, room):
    """Which of the two layouts fits the room up to the next tensor: the file does not say."""
    fits = []
    for name in ("Q2_0_G64", "Q2_0_G128"):
        size = blocks.tensor_bytes(name, rows, cols)
        if size is not None and size <= room < size + 32:
            fits.append(name)
    assert len(fits) == 1, (rows, cols, room, fits)
    return fits[0]


def _read_one(path):
    cursor = _Cursor(Path(path).read_bytes())
    assert cursor.take("I") == 0x46554747, "not GGUF"
    assert cursor.take("I") in (2, 3)
    tensor_count, pair_count = cursor.take("Q"), cursor.take("Q")
    metadata = {}
    for _ in range(pair_count):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.take("I"))
    infos = []
    for _ in range(tensor_count):
        name = cursor.string()
        dims = [cursor.take("Q") for _ in range(cursor.take("I"))]
        infos.append((name, dims, cursor.take("I"), cursor.take("Q")))
    alignment = metadata.get("general.alignment", 32)
    start = -(-cursor.at // alignment) * alignment
    ends = sorted([offset for *_, offset in infos] + [len(cursor.data) - start])
    tensors = {}
    for name, dims, kind, offset in infos:
        cols, rows = dims[0], math.prod(dims[1:])
        room = next(end for end in ends if end > offset) - offset
        form = _q2_0_layout(rows, cols, room) if kind == 42 else BY_ID[kind]
        size = blocks.tensor_bytes(form, rows, cols)
        at = start + offset
        tensors[name] = Tensor(name, form, rows, cols, cursor.data[at : at + size], len(dims))
    return metadata, tensors


def read(path):
    """(metadata, {name: Tensor}) of a file, with its other parts where it is the first of a split."""
    metadata, tensors = _read_one(path)
    count = metadata.get("split.count", 1)
    for part in range(2, count + 1):
        _, more = _read_one(re.sub(r"-00001-of-", f"-{part:05d}-of-", str(path)))
        tensors |= more
    assert len(tensors) == metadata.get("split.tensors.count", len(tensors))
    return metadata, tensors


def _string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _pair(key, kind, value):
    out = _string(key)
    if kind.startswith("["):
        inner = kind[1:-1]
        out += struct.pack("<IIQ", ARRAY, _kind_id(inner), len(value))
        return out + b"".join(_scalar(inner, v) for v in value)
    return out + struct.pack("<I", _kind_id(kind)) + _scalar(kind, value)


def _kind_id(kind):
    return STRING if kind == "str" else next(i for i, form in SCALARS.items() if form == kind)


def _scalar(kind, value):
    return _string(value) if kind == "str" else struct.pack("<" + kind, value)


def write(path, pairs, tensors, version=3, alignment=32):
    """Writes one file. `pairs` are (key, kind, value): a struct letter or "str", in brackets for an array."""
    if alignment != 32:
        pairs = pairs + [("general.alignment", "I", alignment)]
    out = struct.pack("<IIQQ", 0x46554747, version, len(tensors), len(pairs))
    out += b"".join(_pair(*pair) for pair in pairs)
    offset = 0
    for t in tensors:
        dims = [t.cols, t.rows][: t.dims]
        out += _string(t.name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, blocks.TYPES[t.type].id, offset)
        offset += -(-len(t.data) // alignment) * alignment
    pad = lambda size: bytes(-size % alignment)
    out += pad(len(out))
    for t in tensors:
        out += t.data + pad(len(t.data))
    Path(path).write_bytes(out)


def write_split(stem, pairs, parts):
    """Writes the parts, each a list of tensors, as STEM-00001-of-0000N.gguf: all pairs in the first, as gguf-split does."""
    total = sum(len(part) for part in parts)
    for i, part in enumerate(parts):
        split = [
            ("split.no", "H", i),
            ("split.count", "H", len(parts)),
            ("split.tensors.count", "i", total),
        ]
        path = f"{stem}-{i + 1:05d}-of-{len(parts):05d}.gguf"
        write(path, (pairs if i == 0 else []) + split, part)
