"""Records (image bytes, label) as pyarrow 0.15 to 14 serialised them, read without pyarrow and without unpickling.

`pyarrow.serialize` writes counts, then an Arrow stream of one record batch: a union whose one value is a list of the
tuple's items, which are a union again, of a binary and an int64 column. The two messages (schema, batch) begin with
0xffffffff and the length of a FlatBuffers table; the batch's body follows. (Arrow's Message.fbs, Columnar.rst.)
"""

import mmap
import struct

MARK = b"\xff\xff\xff\xff"
COUNTS = 64  # most bytes of the counts at the start
# Buffers: types, offsets; validity, offsets; types, offsets; validity, offsets, data; validity, data.
BUFFERS = 11
LIST_OFFSETS, BINARY_OFFSETS, BINARY, LABEL = 3, 7, 8, 10  # places among them
NOT_PYARROW = "a record is not of pyarrow"
NOT_A_PAIR = "a record is not a pair of image bytes and a label"
TOO_EARLY = "a record ends too early"
Buffer = bytes | mmap.mmap


def image_and_label(data: Buffer, offset: int, length: int) -> tuple[int, int, int]:
    """The record at data[offset : offset + length] -> offset and length of the image's bytes, and the label.

    ValueError when it is anything else.
    """
    try:
        return _image_and_label(data, offset, offset + length)
    except (struct.error, OverflowError):
        raise ValueError(TOO_EARLY) from None


def _image_and_label(data: Buffer, start: int, end: int) -> tuple[int, int, int]:
    schema = data.find(MARK, start, min(end, start + COUNTS))
    if schema < 0:
        raise ValueError(NOT_PYARROW)
    _, schema_end = _message(data, schema)
    batch, body = _message(data, schema_end)
    buffers = []
    for buffer_offset, size in _buffers(data, batch):
        position = body + buffer_offset
        buffer_end = position + size
        if position < body or size < 0 or buffer_end > end:
            raise ValueError(TOO_EARLY)
        buffers.append((position, size))
    if len(buffers) != BUFFERS:
        raise ValueError(NOT_A_PAIR)
    image, size = buffers[BINARY]
    list_offsets, _ = buffers[LIST_OFFSETS]
    binary_offsets, _ = buffers[BINARY_OFFSETS]
    labels, _ = buffers[LABEL]
    if struct.unpack_from("<ii", data, list_offsets) != (0, 2):
        raise ValueError(NOT_A_PAIR)
    if struct.unpack_from("<ii", data, binary_offsets) != (0, size):
        raise ValueError(NOT_A_PAIR)
    (label,) = struct.unpack_from("<q", data, labels)
    return image, size, label


def _message(data: Buffer, start: int) -> tuple[int, int]:
    """The place of a message's header table, and the end of the message's metadata, where its body begins."""
    mark, size = struct.unpack_from("<4si", data, start)
    if mark != MARK or size <= 0:
        raise ValueError(NOT_PYARROW)
    table = start + 8
    header = _field(data, table + _uint32(data, table), 2)
    if header is None:
        raise ValueError(NOT_PYARROW)
    return header + _uint32(data, header), table + size


def _buffers(data: Buffer, batch: int) -> list[tuple[int, int]]:
    """Offset in the body and length of each buffer of a RecordBatch; [] when their number is another."""
    field = _field(data, batch, 2)
    if field is None:
        return []
    vector = field + _uint32(data, field)
    if _uint32(data, vector) != BUFFERS:
        return []
    numbers = struct.unpack_from(f"<{2 * BUFFERS}q", data, vector + 4)
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _field(data: Buffer, table: int, number: int) -> int | None:
    """Where a FlatBuffers table holds a field."""
    (back,) = struct.unpack_from("<i", data, table)
    layout = table - back
    (size,) = struct.unpack_from("<H", data, layout)
    entry = 4 + 2 * number
    if entry >= size:
        return None
    (offset,) = struct.unpack_from("<H", data, layout + entry)
    return table + offset if offset else None


def _uint32(data: Buffer, position: int) -> int:
    """The unsigned number at a position."""
    return struct.unpack_from("<I", data, position)[0]
