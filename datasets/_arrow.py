"""Records (image bytes, label) as pyarrow 0.15 to 14 serialised them, read without pyarrow and without unpickling.

`pyarrow.serialize` writes counts, then an Arrow stream of one record batch: a union whose one value is a list of the
tuple's items, which are a union again, of a binary and an int64 column. The two messages (schema, batch) begin with
0xffffffff and the length of a FlatBuffers table; the batch's body follows. (Arrow's Message.fbs, Columnar.rst.)
"""

import struct

MARK = b"\xff\xff\xff\xff"
COUNTS = 64  # most bytes of the counts at the start
BUFFERS = (
    11  # types, offsets; validity, offsets; types, offsets; validity, offsets, data; validity, data
)
LIST_OFFSETS, BINARY_OFFSETS, BINARY, LABEL = 3, 7, 8, 10  # places among them


def image_and_label(data, offset: int, length: int) -> tuple[int, int, int]:
    """The record at data[offset : offset + length] -> offset and length of the image's bytes, and the label.

    ValueError when it is anything else.
    """
    try:
        return _image_and_label(data, offset, offset + length)
    except (struct.error, OverflowError):
        raise ValueError("a record ends too early") from None


def _image_and_label(data, start: int, end: int) -> tuple[int, int, int]:
    at = data.find(MARK, start, min(end, start + COUNTS))
    if at < 0:
        raise ValueError("a record is not of pyarrow")
    _, at = _message(data, at)
    batch, body = _message(data, at)
    buffers = _buffers(data, batch)
    if len(buffers) != BUFFERS:
        raise ValueError("a record is not a pair of image bytes and a label")
    spans = [(body + buffer, size) for buffer, size in buffers]
    if any(at < body or size < 0 or at + size > end for at, size in spans):
        raise ValueError("a record ends too early")
    image, size = spans[BINARY]
    items = struct.unpack_from("<ii", data, spans[LIST_OFFSETS][0])
    if items != (0, 2) or struct.unpack_from("<ii", data, spans[BINARY_OFFSETS][0]) != (0, size):
        raise ValueError("a record is not a pair of image bytes and a label")
    return image, size, struct.unpack_from("<q", data, spans[LABEL][0])[0]


def _message(data, at: int) -> tuple[int, int]:
    """The place of a message's header table, and the end of the message's metadata, where its body begins."""
    mark, size = struct.unpack_from("<4si", data, at)
    if mark != MARK or size <= 0:
        raise ValueError("a record is not of pyarrow")
    table = at + 8 + struct.unpack_from("<I", data, at + 8)[0]
    header = _field(data, table, 2)
    if header is None:
        raise ValueError("a record is not of pyarrow")
    return header + struct.unpack_from("<I", data, header)[0], at + 8 + size


def _buffers(data, batch: int) -> list[tuple[int, int]]:
    """Offset in the body and length of each buffer of a RecordBatch."""
    field = _field(data, batch, 2)
    if field is None:
        return []
    vector = field + struct.unpack_from("<I", data, field)[0]
    (count,) = struct.unpack_from("<I", data, vector)
    if count != BUFFERS:
        return []
    return [struct.unpack_from("<qq", data, vector + 4 + 16 * i) for i in range(count)]


def _field(data, table: int, number: int) -> int | None:
    """Where a FlatBuffers table holds a field."""
    layout = table - struct.unpack_from("<i", data, table)[0]
    (size,) = struct.unpack_from("<H", data, layout)
    (offset,) = (
        struct.unpack_from("<H", data, layout + 4 + 2 * number) if 4 + 2 * number < size else (0,)
    )
    return table + offset if offset else None
