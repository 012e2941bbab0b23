"""Changes the files of a broker that is not running, as a power cut does."""

import struct
from pathlib import Path

from kafka import TopicPartition

FRAME = 12  # bytes in front of each batch: its first offset, and how many bytes follow


def cut_log(folder: Path, partition: TopicPartition, end: int) -> None:
    """Remove the batches of a partition from the one on that holds the offset `end`.

    folder : that of the broker, which was killed. A power cut takes what was not synced to the
    disk; Kafka leaves that to the operating system.
    """
    path = next(folder.glob(f"**/{partition.topic}-{partition.partition}"))
    (log,) = path.glob("*.log")
    content, position = log.read_bytes(), 0
    while position < len(content):
        first, length = struct.unpack_from(">qi", content, position)
        (last_delta,) = struct.unpack_from(">i", content, position + 23)
        if first + last_delta >= end:
            break
        position += FRAME + length
    log.write_bytes(content[:position])
    for derived in (*path.glob("*.index"), *path.glob("*.timeindex"), *path.glob("*.snapshot")):
        derived.unlink()
