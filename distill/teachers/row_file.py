"""A file of rows of half floats that many processes fill and read at once, and that a kill leaves sound."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from distill.files import Backoff, first_line

log = logging.getLogger(__name__)
CHECKSUM = 2  # words of 16 bits behind a row's values
Words = np.ndarray  # [B,W] uint16: rows as they lie in the file


class RowFile:
    """Rows of `width` half floats, each ending in a checksum of its values; a row whose checksum is wrong is unknown.

    Torn rows, holes and rows that a machine which went down wrote in part are thus unknown, whatever the order in
    which the disk was written, and writers need no lock: of two that write one row either or neither is seen. The
    file is as long as all rows from the start, and takes up what was written. Rows are read through a map and
    written by pwrite, so that a full disk is an error and not the end of the process; then none are written for a
    while.

    Raises OSError where the file can be neither made nor read.
    """

    def __init__(self, path: Path, count: int, width: int) -> None:
        self.path, self.count, self.width = path, count, width
        self.row_bytes = 2 * (width + CHECKSUM)
        self._file: BinaryIO | None = None
        self._full = Backoff()
        self._weights = np.random.default_rng(0).integers(1, 2**32, width, dtype=np.uint32) | np.uint32(1)
        size = count * self.row_bytes
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
            if os.fstat(self._file.fileno()).st_size < size:
                self._file.truncate(size)
        except OSError:
            if not path.is_file() or path.stat().st_size < size:
                raise
            self._file = None  # somebody else's, to be read
        self._words: Words = np.memmap(path, dtype=np.uint16, mode="r", shape=(count, width + CHECKSUM))

    def read(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return float16 values [B,width] of the rows `keys` [B], and which of them are known [B]."""
        words = self._words[keys]
        values = words[:, : self.width]
        return values.view(np.float16), (self._checksums(values) == words[:, self.width :]).all(1)

    def write(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Keep float16 values [B,width] as the rows `keys` [B]; rows that are not finite are left out."""
        if self._full.wait and not self._full.due:
            return
        words = np.ascontiguousarray(values).view(np.uint16)
        rows = np.concatenate([words, self._checksums(words)], axis=1)
        try:
            for key, row, finite in zip(keys.tolist(), rows, np.isfinite(values).all(1), strict=True):
                if finite and self._file is not None:
                    os.pwrite(self._file.fileno(), row.tobytes(), key * self.row_bytes)
            self._full.succeeded()
        except OSError as error:
            wait = self._full.failed()
            log.warning("%s takes no rows (%s): the teacher is asked, and it is tried again in %.0f s", self.path,
                        first_line(error), wait)  # fmt: skip

    def _checksums(self, words: Words) -> Words:
        """A weighted sum modulo 2^32 of each row [B,2]; never 0, which is what holes hold."""
        sums = (words.astype(np.uint32) * self._weights).sum(1, dtype=np.uint32)
        return np.maximum(sums, 1)[:, None].view(np.uint16)

    def close(self) -> None:
        """Write no more."""
        if self._file is not None:
            self._file.close()
            self._file = None
