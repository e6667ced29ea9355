"""Pictures of masks: colours where the masks are, files that open."""

import errno
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from lmeec_core import overlay


def grey(height: int = 60, width: int = 80) -> np.ndarray:
    return np.full((height, width, 3), 100, dtype=np.uint8)


def test_draws_inside_the_mask_only_and_scales_it() -> None:
    mask = np.zeros((30, 40), bool)  # half the image's size
    mask[10:20, 10:30] = True
    image = grey()
    drawn = overlay.draw_masks(image, {"cup": mask, "absent": None}, alpha=0.5)
    expected = (100 + np.array(overlay.colour(0))) // 2
    np.testing.assert_allclose(drawn[30, 40], expected, atol=1)
    np.testing.assert_array_equal(drawn[5, 5], [100, 100, 100])
    np.testing.assert_array_equal(image, grey())  # the input is as it was


def test_truth_is_a_white_outline() -> None:
    truth = np.zeros((60, 80), bool)
    truth[20:40, 20:60] = True
    drawn = overlay.draw_masks(grey(), {}, truth={"cup": truth, "gone": None})
    assert drawn[20, 40].min() > 200
    np.testing.assert_array_equal(drawn[30, 40], [100, 100, 100])


def test_caption_takes_any_text() -> None:
    drawn = overlay.caption(grey(), ["frame 3", "Löffel/杯"], [(255, 0, 0)])
    assert drawn.shape == (60, 80, 3)
    assert (drawn != grey()).any()


def test_rows_and_sheets_have_the_sizes_promised() -> None:
    row = overlay.side_by_side([grey(60, 80), grey(80, 41)], height=51)
    assert row.shape[0] == 52 and row.shape[1] % 2 == 0
    sheet = overlay.contact_sheet([row] * 3, columns=2, title=["three"])
    assert sheet.shape[1] == 2 * (row.shape[1] + 6)
    assert sheet.shape[0] == 2 * (row.shape[0] + 6) + 36
    with pytest.raises(ValueError, match="nothing to show"):
        overlay.contact_sheet([], 2)


def test_png_keeps_the_colours(tmp_path: Path) -> None:
    image = grey()
    image[..., 0] = 250
    overlay.write_png(tmp_path / "a.png", image)
    read = cv2.cvtColor(cv2.imread(str(tmp_path / "a.png")), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(read, image)


def test_video_holds_all_frames(tmp_path: Path) -> None:
    frames = []
    for index in range(12):
        frame = grey(61, 81)  # odd sizes are cut to even ones
        frame[:, : index * 6, 2] = 255
        frames.append(frame)
    path = overlay.write_video(tmp_path / "a.avi", iter(frames), 5)
    assert path == tmp_path / "a.mp4"
    with av.open(str(path)) as container:
        read = [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]
        assert float(container.streams.video[0].average_rate or 0) == 5
    assert len(read) == 12 and read[0].shape == (60, 80, 3)
    assert abs(int(read[11][30, 10, 2]) - 255) < 25 and abs(int(read[11][30, 76, 2]) - 100) < 25
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_video_of_nothing_or_of_changing_size_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frames"):
        overlay.write_video(tmp_path / "a.mp4", [], 5)
    with pytest.raises(ValueError, match="shapes"):
        overlay.write_video(tmp_path / "a.mp4", [grey(), grey(40, 40)], 5)
    assert list(tmp_path.iterdir()) == []


def test_gif_without_the_video_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.setitem(__import__("sys").modules, "av", None)
    frames = [np.full((20, 30, 3), shade, np.uint8) for shade in (0, 120, 250)]
    path = overlay.write_video(tmp_path / "a.mp4", frames, 4)
    assert path == tmp_path / "a.gif"
    with Image.open(path) as picture:
        assert picture.n_frames == 3  # type: ignore[attr-defined]
        assert picture.info["duration"] == 250


@pytest.mark.parametrize("suffix", [".png", ".mp4", ".gif"])
def test_a_picture_that_cannot_be_written_leaves_the_one_before(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"before")

    def write() -> None:
        if suffix == ".png":
            overlay.write_png(path, grey())
        elif suffix == ".mp4":
            overlay.write_video(path, [grey(), grey()], 10)
        else:
            overlay._write_gif(path, [grey(), grey()], 10)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match=f"not written: No space.*a{suffix}"):
            write()
    assert path.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == [path.name]
    write()
    assert path.read_bytes() != b"before" and [p.name for p in tmp_path.iterdir()] == [path.name]
