"""Images are read as they are stored; what is made of them is said once for a source."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from lmeec_core.cli.app import app
from lmeec_core.errors import InputError
from lmeec_core.evaluation import score_pair
from lmeec_core.evaluation.evaluate import evaluate
from lmeec_core.evaluation.truth import open_truth
from lmeec_core.offline.notices import collected
from lmeec_core.takes import Results, Take, TakeError, TakeWriter, encode_mask, resize_mask
from lmeec_core.takes.images import ImageReader, decode_image
from lmeec_core.takes.rle import check_aspect

COARSE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
RGB = cv2.resize(COARSE, (80, 60), interpolation=cv2.INTER_CUBIC)
GREY = RGB[:, :, 0].copy()


def stored(kind: str, orientation: int | None) -> bytes:
    """The picture as JPEG or PNG, with a tag that tells viewers to turn it."""
    exif = Image.Exif()
    if orientation is not None:
        exif[0x112] = orientation
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, kind, exif=exif, quality=95)
    return file.getvalue()


def png(pixels: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", pixels)
    assert done
    return data.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", [*range(2, 9)])
def test_an_exif_orientation_is_ignored_and_said_once(
    caplog: pytest.LogCaptureFixture, kind: str, orientation: int
) -> None:
    data = stored(kind, orientation)
    reader = ImageReader("the camera")
    for _ in range(3):
        read = reader.decode(data)
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_allclose(read, np.asarray(image.convert("RGB")), atol=2)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"the camera: EXIF orientation {orientation} in the im")
    assert record.levelno == logging.WARNING


@pytest.mark.parametrize("orientation", [None, 0, 1, 9])
def test_an_upright_image_says_nothing(
    caplog: pytest.LogCaptureFixture, orientation: int | None
) -> None:
    assert ImageReader("x").decode(stored("JPEG", orientation)).shape == RGB.shape
    assert not caplog.records


def test_a_broken_tag_is_no_reason_to_refuse_an_image(caplog: pytest.LogCaptureFixture) -> None:
    data = bytearray(stored("JPEG", 6))
    at = data.index(b"Exif\0\0") + 6
    data[at : at + 8] = b"\xff" * 8
    assert ImageReader("x").decode(bytes(data)).shape == RGB.shape
    assert not caplog.records


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("colour", [False, True])
def test_16_bit_png_is_read_by_the_bits_in_use(
    caplog: pytest.LogCaptureFixture, bits: int, colour: bool
) -> None:
    pixels = (RGB[:, :, ::-1] if colour else GREY).astype(np.uint16) << (bits - 8)
    assert pixels.max() >= 1 << (bits - 1)
    read = ImageReader("depth").decode(png(pixels))
    np.testing.assert_array_equal(read, RGB if colour else np.dstack([GREY] * 3))
    texts = [record.getMessage() for record in caplog.records]
    said = f"depth: 16-bit image with values up to {pixels.max()}: read as {bits}-bit"
    assert texts == ([said] if bits < 16 else [])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 65535), min_size=1, max_size=12))
def test_the_bits_only_grow(highest: list[int]) -> None:
    """A dark image does not become brighter than the bright ones before it."""
    reader, used = ImageReader("x"), 8
    with collected() as said:
        for value in highest:
            pixels = np.asarray([[value, value // 2, 0]], np.uint16)
            used = max(used, next(b for b in (8, 10, 12, 14, 16) if value < 1 << b))
            np.testing.assert_array_equal(reader.to_8_bits(pixels), pixels >> (used - 8))
    assert len(said) <= 5
    assert all("read as" in text for text in said)
    if 8 < used < 16:
        assert said[-1].split(" (")[0].endswith(f"read as {used}-bit")


PHOTO = Image.open(Path(__file__).parents[1] / "data" / "sample_take" / "aria01" / "0.jpg").convert(
    "RGB"
)


def jpeg(image: Image.Image = PHOTO, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", [{}, {"restart_marker_rows": 2}])
@pytest.mark.parametrize("filling", [b"", b"\0"], ids=["left out", "zeros"])
def test_a_jpeg_damaged_in_its_middle_is_refused(kind: dict[str, Any], filling: bytes) -> None:
    """OpenCV decodes nearly all of these; what follows the damage is grey, or in another place.

    JPEG has no checksum: by chance the decoder ends where the data do.
    """
    chance, whole = np.random.default_rng(0), jpeg(**kind)
    wrong = refused = 0
    for _ in range(60):
        begin, count = int(chance.uniform(0.4, 0.9) * len(whole)), int(chance.integers(600, 1500))
        data = whole[:begin] + filling * count + whole[begin + count :]
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if decoded is None:
            continue
        apart = np.abs(decoded[..., ::-1].astype(int) - np.asarray(PHOTO)).max(axis=2)
        if (apart > 90).mean() > 0.02:
            wrong += 1
            try:
                decode_image(data)
            except InputError as error:
                assert f"JPEG of {len(data)} bytes is damaged: " in str(error)
                refused += 1
    assert wrong > 20 and refused >= 0.9 * wrong, (refused, wrong)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("extra", [b"", bytes(60)], ids=["whole", "bytes left over"])
def test_whole_jpegs_of_all_kinds_are_read(mode: str, extra: bytes) -> None:
    """Also with the bytes that some cameras leave between the pixels and the end marker."""
    whole = jpeg(PHOTO.convert(mode), progressive=bool(extra))
    data = whole[:-2] + extra + whole[-2:]
    wanted = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(decode_image(data), wanted)
    assert np.array_equal(decode_image(data + b"after the end"), wanted)


def test_one_image_alone_is_decoded_alike() -> None:
    np.testing.assert_array_equal(decode_image(png(GREY.astype(np.uint16) << 2))[:, :, 0], GREY)
    for pixels in (GREY, RGB):
        assert ImageReader("x").to_8_bits(pixels) is pixels


@pytest.fixture
def take(tmp_path: Any) -> Take:
    mask = np.zeros((60, 80), bool)
    mask[20:40, 10:30] = True
    with TakeWriter(tmp_path / "t") as writer:
        for camera in ("aria01", "cam01"):
            for frame in (0, 30):
                writer.image(camera, frame, RGB)
                writer.mask("cup", camera, frame, mask)
    return Take.open(tmp_path / "t")


def test_a_take_tells_which_camera_it_is(take: Take, caplog: pytest.LogCaptureFixture) -> None:
    for frame in (0, 30):
        (take.path / "cam01" / f"{frame}.jpg").write_bytes(stored("JPEG", 6))
        (take.path / "aria01" / f"{frame}.jpg").write_bytes(png(GREY.astype(np.uint16) << 2))
    for camera in take.cameras:
        for frame in (0, 30):
            assert take.image(camera, frame).shape == RGB.shape
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert texts[0].startswith(f"{take.path / 'aria01'}: 16-bit image")
    assert texts[1].startswith(f"{take.path / 'cam01'}: EXIF orientation 6")


def test_what_was_collected_is_said_after_all_if_the_work_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with collected() as said:
        ImageReader("one").decode(stored("JPEG", 3))
        ImageReader("one").decode(stored("JPEG", 3))
    assert len(said) == 1 and not caplog.records
    with pytest.raises(RuntimeError), collected():
        ImageReader("two").decode(stored("JPEG", 3))
        raise RuntimeError
    assert [r.getMessage()[:3] for r in caplog.records] == ["two"]


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
    st.floats(0.05, 20),
    st.tuples(*[st.sampled_from([np.floor, np.ceil, np.round])] * 2),
)
def test_an_image_scaled_evenly_has_its_aspect(
    size: tuple[int, int], factor: float, rounded: tuple[Any, Any]
) -> None:
    scaled = tuple(max(1, int(r(n * factor))) for r, n in zip(rounded, size, strict=True))
    check_aspect(scaled, size)  # type: ignore[arg-type]
    check_aspect(size, scaled)  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.integers(60, 2000), st.integers(60, 2000)),
    st.floats(0.2, 5),
    st.floats(1.1, 3),
)
def test_another_aspect_is_refused(size: tuple[int, int], factor: float, stretch: float) -> None:
    other = (max(40, round(size[0] * factor)), max(40, round(size[1] * factor * stretch)))
    assume(other[1] / size[1] > 1.09 * other[0] / size[0])  # it is still so after rounding
    with pytest.raises(InputError, match=f"mask of {other[1]} x {other[0]} given for {size[1]} x"):
        check_aspect(other, size)


@pytest.mark.parametrize(
    ("mask", "image"),
    [
        ((1408, 1408), (448, 448)),
        ((2160, 3840), (448, 796)),  # EgoExo4D's smaller videos
        ((270, 480), (2160, 3840)),
        ((479, 479), (1408, 1408)),  # as the benchmark truncates
        ((532, 952), (1080, 1920)),  # a network's multiples of 14
        ((1088, 1920), (1080, 1920)),
    ],
)
def test_real_pairs_of_sizes_fit(mask: tuple[int, int], image: tuple[int, int]) -> None:
    check_aspect(mask, image)


def test_a_takes_mask_of_another_aspect_is_refused_with_its_place(take: Take) -> None:
    assert take.mask("cup", "cam01", 30, image=(120, 160)) is not None
    with pytest.raises(TakeError, match=r"'cup', camera 'cam01', frame 30: mask of 80 x 60 given "):
        take.mask("cup", "cam01", 30, image=(160, 120))


def test_track_says_what_was_made_of_images_and_leaves_out_what_does_not_fit(take: Take) -> None:
    """With worker processes, of which nothing comes but the outcome, and again from kept units."""
    for frame in (0, 30):
        (take.path / "cam01" / f"{frame}.jpg").write_bytes(stored("JPEG", 6))
    path = take.path / "annotation.json"
    content = json.loads(path.read_text())
    other = np.zeros((80, 80), bool)
    other[20:40, 10:30] = True
    content["masks"]["knife"] = {"aria01": {"0": encode_mask(other)}}
    path.write_text(json.dumps(content))
    out = take.path.parent / "found.json"
    command = [
        *("track", str(take.path), "--out", str(out), "--workers", "2"),
        *("--preset", "mini", "--seed", "0", "--device", "cpu", "--engine", "eager"),
    ]
    runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})
    for _ in range(2):
        result = runner.invoke(app, command)
        assert result.exit_code == 1, result.output
        noted = f"note: {take.path / 'cam01'}: EXIF orientation 6 in the image is ignored"
        assert result.output.count(noted) == 1, result.output
        assert "left out: " in result.output
        assert "'knife', camera 'aria01', frame 0: mask of 80 x 80 given for 80 x 60" in (
            result.output
        )
    found = Results.read(out, "ego-exo")
    assert {(p.object_name, p.frame) for p in found.predictions()} >= {("cup", 0), ("cup", 30)}
    whole = evaluate(found, open_truth(take.path, "ego-exo"))
    assert not [p for p in whole.problems if p.kind == "prediction broken"]


@pytest.mark.parametrize(
    ("size", "score"), [((60, 80), 1.0), ((120, 160), 1.0), ((90, 90), 0.0), ((60, 60), 0.0)]
)
def test_predictions_of_another_aspect_are_not_scored_as_if_they_fitted(
    take: Take, size: tuple[int, int], score: float
) -> None:
    true = take.mask("cup", "cam01", 0)
    assert true is not None
    results = Results("ego-exo")
    for frame in (0, 30):
        results.add(take.name, "cup", "aria01", "cam01", frame, resize_mask(true, size), 1.0)
    problems: list[str] = []
    official = score_pair(results, take, "cup", "aria01", "cam01", on_broken=problems.append)
    assert official.iou == pytest.approx(score, abs=0.02) and len(problems) == 2 * (score == 0)
    assert all(f"mask of {size[1]} x {size[0]} given for 480 x 360" in p for p in problems)
    squashed = score_pair(results, take, "cup", "aria01", "cam01", "lm_eec")
    assert squashed.iou == pytest.approx(1, abs=0.1), "its protocol squashes all"
