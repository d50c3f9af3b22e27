"""TensorBoard's curves of a run."""

import struct
from functools import cache
from pathlib import Path

WHAT = "TensorBoard curves"
EVENTS = "events.out.tfevents."  # how the names of its files begin
# Bytes of a record before its content, of its length, and of each checksum
HEAD, LENGTH, CRC = 12, 8, 4


class Board:
    """Writes events below a folder."""

    def __init__(self, folder: Path, first_step: int | None, anew: bool = False):
        """first_step: points from this step on, of a run that died, are dropped; None: there are none.

        anew: all points are dropped, of a run that began here before and had saved nothing.
        """
        if anew:
            for events in folder.glob(f"{EVENTS}*"):
                events.unlink()
        # Slow to import, and it imports TensorFlow where that is installed, which may be broken.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def add(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


# Verifying


def verify(path: Path) -> str:
    """What was compared of a file of events. ValueError where it is damaged; a killed run may have cut its last record.

    A record is the length of its content (uint64), that length's checksum, the content, and the content's checksum
    (TensorFlow's lib/io/record_writer.h).
    """
    with open(path, "rb") as file:
        number = 0
        while len(head := file.read(HEAD)) == HEAD:
            number += 1
            (length,) = struct.unpack("<Q", head[:LENGTH])
            if head[LENGTH:] == _checksum(head[:LENGTH]):
                content, checksum = file.read(length), file.read(CRC)
                if len(checksum) < CRC or checksum == _checksum(content):
                    continue
            raise ValueError(
                f"{path} is damaged in its record {number}: TensorBoard shows what is before; metrics.jsonl has all"
            )
    return "the CRC-32C of each record"


def _checksum(data: bytes) -> bytes:
    """CRC-32C (Castagnoli), masked as TensorFlow does."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@cache
def _table() -> list[int]:
    entries = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (0x82F63B78 if entry & 1 else 0)
        entries.append(entry)
    return entries
