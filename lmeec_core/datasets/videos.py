"""One camera's video of an episode, encoded for random access."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CODEC = "libx264"
QUALITY = 18
"""x264's constant rate factor; 0 would be lossless."""


class VideoWriter:
    """Write an MP4, H.264; frame k has the time k / fps.

    Every second frame is a key frame, as in LeRobot's own videos, because training reads frames in
    random order. Colour has half the resolution (yuv420p), or full resolution (yuv444p) if a side
    of the image is odd.

    Args:
        path: the file; its folder must exist.
        size: (height, width).
        fps: frames per second.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: int) -> None:
        import av

        self.pixels = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
        self._container: Any = av.open(str(path), "w", format="mp4")
        stream: Any = self._container.add_stream(CODEC, rate=fps)
        stream.height, stream.width = size
        stream.pix_fmt = self.pixels
        self._base = Fraction(1, fps)
        stream.time_base = self._base
        # One thread and no look-ahead, so that the same images give the same bytes.
        stream.codec_context.thread_count = 1
        stream.options = {
            "crf": str(QUALITY), "g": "2", "bf": "0", "preset": "veryfast", "sc_threshold": "0",
            "x264-params": "threads=1:lookahead-threads=1:sync-lookahead=0:rc-lookahead=0:mbtree=0",
        }  # fmt: skip
        self._stream = stream
        self._count = 0

    def add(self, image: NDArray[np.uint8]) -> None:
        """Add a frame, RGB uint8 (H, W, 3)."""
        import av

        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = self._count, self._base
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finish the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def abort(self) -> None:
        """Close the unfinished file."""
        self._container.close()
