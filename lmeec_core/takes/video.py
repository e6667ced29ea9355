"""Frames of a video file by number, in constant memory (PyAV)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmeec_core.takes.errors import TakeError

NEAR = 64
"""Up to so many frames ahead decoding on is taken to be cheaper than seeking."""


class Video:
    """A video whose frames are read by number, 0 being the first.

    The file is opened at the first use and stays open; one decoded frame is kept. Frames that come
    in increasing order are decoded in one pass.

    Args:
        path: the file, of any kind that FFmpeg reads.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._container: Any = None
        self._frames: Any = None  # the decoder's iterator
        self._last: tuple[int, Any] | None = None  # number and frame decoded last
        self._times: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._timestamps())

    def read(self, number: int) -> NDArray[np.uint8]:
        """Frame ``number``, RGB uint8 (H, W, 3).

        Raises:
            TakeError: if there is no such frame, or the file is broken.
        """
        times = self._timestamps()
        if not 0 <= number < len(times):
            raise TakeError(self.path, f"no frame {number}; the video has {len(times)} frames")
        import av

        try:
            frame = self._decode(number, times)
            image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
            return np.ascontiguousarray(np.rot90(image, frame.rotation // 90))  # as players show it
        except (av.error.FFmpegError, ValueError) as error:
            self.close()
            raise TakeError(self.path, f"frame {number} cannot be decoded: {error}") from error

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._container is not None:
            self._container.close()
        self._container = self._frames = self._last = None

    def __getstate__(self) -> dict[str, Any]:
        """Another process opens the file for itself."""
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def _open(self) -> Any:
        try:
            import av
        except ImportError as error:
            raise TakeError(
                self.path, "reading videos needs PyAV; `pip install av` or the extra [video]"
            ) from error
        if self._container is None:
            try:
                self._container = av.open(str(self.path))
                self._container.streams.video[0].thread_type = "AUTO"
            except (av.error.FFmpegError, OSError, IndexError) as error:
                self.close()
                raise TakeError(self.path, f"is no video that can be read: {error}") from error
        return self._container

    def _timestamps(self) -> NDArray[np.int64]:
        """Time of every frame in the stream's units, increasing.

        From the file's index where that shows a constant frame rate; otherwise the packets are gone
        through once, without decoding them.
        """
        if self._times is None:
            import av

            container = self._open()
            stream = container.streams.video[0]
            try:
                times = _constant_rate(stream)
                if times is None:
                    stamps = [p.pts for p in container.demux(stream) if p.size]
                    times = np.unique(np.asarray([t for t in stamps if t is not None], np.int64))
            except av.error.FFmpegError as error:
                raise TakeError(self.path, f"cannot be read to its end: {error}") from error
            finally:
                self.close()
            if not len(times):
                raise TakeError(self.path, "holds no frames")
            self._times = times
        return self._times

    def _decode(self, number: int, times: NDArray[np.int64]) -> Any:
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        container = self._open()
        stream = container.streams.video[0]
        if self._last is None or not 0 < number - self._last[0] <= NEAR:
            container.seek(int(times[number]), stream=stream, backward=True)
            self._frames = container.decode(stream)
        for frame in self._frames:
            if frame.pts is not None and frame.pts >= times[number]:
                if frame.pts > times[number]:
                    raise ValueError("it is missing from the stream")
                self._last = number, frame
                return frame
        raise ValueError("the stream ends before it")


def _constant_rate(stream: Any) -> NDArray[np.int64] | None:
    """Times of the frames by the file's index; None without one, or if the rate varies."""
    entries = stream.index_entries
    count = len(entries)
    if count < 2 or count != stream.frames or stream.start_time is None:
        return None
    stamps = np.fromiter((e.timestamp for e in entries), np.int64, count)  # decoding order
    steps = np.diff(stamps)
    if (steps != steps[0]).any():
        return None
    return int(stream.start_time) + np.arange(count, dtype=np.int64) * int(steps[0])
