"""Reads frames of a video file by number, in constant memory (PyAV)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmeec_core.takes.errors import TakeError
from lmeec_core.takes.images import ImageReader
from lmeec_core.takes.video_index import Index, cut_off, make_index, shown

NEAR = 64
"""Up to this many frames ahead, decoding is assumed to be cheaper than seeking."""
_log = logging.getLogger(__name__)


class Video:
    """A video whose frames are read by number; 0 is the first frame that players show.

    The file is opened at first use and stays open; one decoded frame is kept. Frames read in
    increasing order are decoded in one pass. Damage is logged when it is found.

    Args:
        path: the file, of any format that FFmpeg reads.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())  # of the decoder
        self._last: tuple[int, Any] | None = None  # number and frame decoded last
        self._index: Index | None = None
        self._reader = ImageReader(str(self.path))

    def __len__(self) -> int:
        """Number of frames."""
        return self._indexed().count

    @property
    def damage(self) -> str | None:
        """A text about lost parts; None if the video is complete or has not been read yet."""
        damage = self._index and self._index.damage
        return f"{self.path}: {damage}" if damage else None

    def read(self, number: int) -> NDArray[np.uint8]:
        """Frame ``number``, RGB uint8 (H, W, 3).

        Raises:
            TakeError: there is no such frame, or the file is broken.
        """
        index = self._indexed()
        if not 0 <= number < index.count:
            lost = f" ({index.damage})" if index.damage else ""
            text = f"no frame {number}; the video has {index.count} frames{lost}"
            raise TakeError(self.path, text)
        import av

        try:
            return self._pixels(self._decode(number, index))
        except (av.error.FFmpegError, ValueError) as error:
            self.close()
            raise TakeError(self.path, f"frame {number} cannot be decoded: {error}") from error

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._container is not None:
            self._container.close()
        self._container = self._last = None
        self._frames = iter(())

    def __getstate__(self) -> dict[str, Any]:
        """Pickle only the path: another process opens the file itself."""
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def _indexed(self) -> Index:
        if self._index is None:
            av = self._library()
            try:
                self._index = make_index(self.path)
            except (av.error.FFmpegError, OSError, IndexError) as error:
                with suppress(OSError):
                    if cut := cut_off(self.path):
                        raise TakeError(self.path, f"{cut}: nothing can be read") from error
                raise TakeError(self.path, f"is not a readable video: {error}") from error
            if self._index.damage:
                _log.warning("%s", self.damage)
        if not self._index.count:
            raise TakeError(self.path, self._index.damage or "has no frames")
        return self._index

    def _library(self) -> Any:
        try:
            import av
        except ImportError as error:
            raise TakeError(
                self.path, "reading videos needs PyAV; `pip install av` or the extra [video]"
            ) from error
        return av

    def _open(self) -> Any:
        av = self._library()
        if self._container is None:
            try:
                self._container = av.open(str(self.path))
                if self._indexed().regular:
                    self._container.streams.video[0].thread_type = "AUTO"
            except (av.error.FFmpegError, OSError, IndexError) as error:
                self.close()
                raise TakeError(self.path, f"is not a readable video: {error}") from error
        return self._container

    def _decode(self, number: int, index: Index) -> Any:
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        frame = self._counted(number) if index.times is None else self._sought(number, index.times)
        self._last = number, frame
        return frame

    def _counted(self, number: int) -> Any:
        """A frame of a video without timestamps: by counting."""
        if self._last is None or number < self._last[0]:
            self._start()
        begin = 0 if self._last is None else self._last[0] + 1
        for count, frame in enumerate(self._frames, start=begin):
            if count == number:
                return frame
        raise ValueError("the stream ends before it")

    def _sought(self, number: int, times: NDArray[np.int64]) -> Any:
        """A frame by its timestamp: by decoding further, or after a seek."""
        wanted = int(times[number])
        if self._last is not None and 0 < number - self._last[0] <= NEAR:
            frame, _ = self._next_at(wanted)
            return frame
        for earlier in (0, NEAR, 8 * NEAR):  # a seek may end too late, or inside an open GOP
            if earlier > number:
                break
            container = self._open()
            stream = container.streams.video[0]
            container.seek(int(times[max(0, number - earlier)]), stream=stream, backward=True)
            self._frames = shown(container, stream)
            frame, late = self._next_at(wanted, first=True)
            if not late:
                return frame
        self._start()
        frame, _ = self._next_at(wanted)
        return frame

    def _start(self) -> None:
        """Decode from the beginning."""
        self.close()
        container = self._open()
        self._frames = shown(container, container.streams.video[0])

    def _next_at(self, wanted: int, first: bool = False) -> tuple[Any, bool]:
        """The next frame with a timestamp.

        Returns:
            the frame, and whether the first frame was already later (only if ``first``).
        """
        for count, frame in enumerate(self._frames):
            if frame.pts is None or frame.pts < wanted:
                continue
            if frame.pts == wanted:
                return frame, False
            if first and not count:
                return frame, True
            raise ValueError("it is missing from the stream")
        if first:
            return None, True
        raise ValueError("the stream ends before it")

    def _pixels(self, frame: Any) -> NDArray[np.uint8]:
        deep = {component.bits for component in frame.format.components} == {16}
        if deep:
            name = "gray16le" if len(frame.format.components) == 1 else "rgb48le"
            image = self._reader.to_8_bits(frame.to_ndarray(format=name))
            if image.ndim == 2:
                image = np.repeat(image[:, :, None], 3, axis=2)
        else:
            image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
        turns = frame.rotation // 90 if frame.rotation % 90 == 0 else 0  # as players show it
        return np.ascontiguousarray(np.rot90(image, turns))
