"""Texts about objects, as omama takes them into account, and what is said where it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from lmeec_core.checkpoint import CheckpointError, load_model
from lmeec_core.cli.app import app
from lmeec_core.errors import InputError
from lmeec_core.methods import load_method, without_effect
from lmeec_core.methods.conditions import HashedWords, TextScorer
from lmeec_core.methods.omama.features import EncoderFeatures
from lmeec_core.methods.omama.settings import OMaMaSettings
from lmeec_core.methods.omama.texts import ObjectTexts, read_texts, text_facts, text_note

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample_take"
CPU = torch.device("cpu")
FEATURES: Any = SimpleNamespace(fingerprint="some")
KNOWN = ("a", "blue", "mug", "red")

Write = Callable[..., OMaMaSettings]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes weights, and gives the settings that name them."""

    def written(features: str = "some", dim: int = 6, **facts: str | None) -> OMaMaSettings:
        torch.manual_seed(1)
        scorer = TextScorer("words", dim, 16, 8)
        for parameter in scorer.parameters():
            torch.nn.init.normal_(parameter)
        said = {**text_facts(scorer, features, HashedWords(16, KNOWN)), **facts}
        path = tmp_path / "texts.safetensors"
        state = {name: value.detach() for name, value in scorer.state_dict().items()}
        save_file(state, path, {k: v for k, v in said.items() if v is not None})
        return OMaMaSettings(text_weights=str(path))

    return written


def test_the_described_object_is_scored_with_its_text(write: Write) -> None:
    """The other objects' scores are those without text; descriptors' context is not looked at."""
    settings = write()
    generator = torch.Generator().manual_seed(0)
    scores, objects, candidates = (
        torch.randn(*size, generator=generator) for size in ((2, 5), (2, 12), (5, 12))
    )
    found = [
        read_texts({"cup": text}, settings, FEATURES, CPU).scores(
            ["pan", "cup"], scores, objects, candidates
        )
        for text in ("a blue mug", "a red mug", "Blue mug, a big one")
    ]
    torch.testing.assert_close(found[0][0], scores[0])
    assert (found[0][1] - scores[1]).abs().max() > 1e-3
    assert (found[0][1] - found[1][1]).abs().max() > 1e-3
    candidates[:, 6:] = 0
    again = read_texts({"cup": "a blue mug"}, settings, FEATURES, CPU)
    torch.testing.assert_close(again.scores(["pan", "cup"], scores, objects, candidates), found[0])
    assert text_note({"cup": "Blue mug, a big one"}, settings) == (
        f"text: 'big', 'one': not among the words that {settings.text_weights} was trained with; "
        "no effect"
    )
    assert text_note({"cup": "a blue mug"}, settings) is None and text_note({}, settings) is None


@pytest.mark.parametrize(
    ("facts", "text", "error", "message"),
    [
        ({}, "", InputError, "text of 'cup': '' given, a description in words"),
        ({}, "une tasse", InputError, "know none of its words; they know a, blue, mug, red"),
        ({"words": None, "encoder": "f00"}, "a mug", InputError, "omama.text_encoder: nothing"),
        ({"encoder": "f00"}, "a mug", InputError, "trained with the text encoder f00, and hashed"),
        ({"features": "other"}, "a mug", CheckpointError, r"other features \(fingerprint other\)"),
        ({"form": "none"}, "a mug", CheckpointError, "trained without texts"),
        ({"form": "sum"}, "a mug", CheckpointError, "not weights for texts"),
        ({"width": None}, "a mug", CheckpointError, "not weights for texts"),
        ({"width": "9"}, "a mug", CheckpointError, "shape"),
    ],
)
def test_texts_that_cannot_be_used_are_refused(
    write: Write, facts: dict[str, str | None], text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_texts({"cup": text}, write(**facts), FEATURES, CPU)


def test_a_text_needs_weights() -> None:
    with pytest.raises(CheckpointError, match="omama.text_weights, which are needed .* are not"):
        load_method("omama", device="cpu", text={"cup": "a mug"})
    assert without_effect("omama", ["text.cup", "omama.text_weights"]) is None
    assert without_effect("lmeec", ["text.cup"]) == ("method lmeec: it has no text.cup; no effect")


def test_a_text_decides_which_candidate_is_chosen(write: Write) -> None:
    """Of two candidates the text chooses the other one; the presence stays that of the looks."""
    image = np.full((96, 96, 3), 60, np.uint8)
    image[10:40, 10:40], image[50:80, 50:80] = (220, 30, 30), (30, 30, 220)
    masks = np.zeros((2, 96, 96), bool)
    masks[0, 10:40, 10:40] = masks[1, 50:80, 50:80] = True
    features = EncoderFeatures(load_model("nano", device="cpu"))
    settings = write(features.fingerprint, 256)
    method = load_method(
        "omama", device="cpu", candidates=lambda _: masks, omama=settings,
        text={"cup": "a blue mug, big"}, text_encoder=HashedWords(16, KNOWN),
    )  # fmt: skip
    assert "'big': not among the words" in "".join(method.notes)
    assert isinstance(method.texts, ObjectTexts)
    views, asked = {"ego": image, "exo": image}, {"cup": masks[0], "pan": masks[0]}
    plain = method.tracker("ego", ["exo"])
    plain._texts = None
    alone, chosen = plain.step(views, asked)["exo"], dict[float, Any]()
    for sign in (1.0, -1.0):
        last: Any = method.texts.scorer.scorer.project[-1]
        last.weight.data *= 1e3 * sign
        last.bias.data *= 0
        chosen[sign] = method.tracker("ego", ["exo"]).step(views, asked)["exo"]
        last.weight.data /= 1e3 * sign
        assert np.array_equal(chosen[sign]["pan"].found, alone["pan"].found)
    first, second = (one["cup"].found for one in chosen.values())
    assert not (first & second).any() and (first | second).sum() == 1800
    same, moved = sorted(chosen.values(), key=lambda one: -float(one["cup"].similarity))
    assert same["cup"].presence == alone["cup"].presence > moved["cup"].presence


def test_track_takes_texts_and_names_what_is_not_there(write: Write, tmp_path: Path) -> None:
    features = EncoderFeatures(load_model("nano", device="cpu"))
    weights = write(features.fingerprint, 256).text_weights
    take = json.loads((SAMPLE / "annotation.json").read_text())
    name = sorted(take["masks"])[0]
    base = ["track", str(SAMPLE), "--out", str(tmp_path / "x.json"), "--text-weights", weights]

    def told(*options: str, code: int = 2) -> str:
        done = CliRunner().invoke(app, [*base, "--method", "omama", *options])
        assert done.exit_code == code, done.output
        return " ".join(done.output.split())

    absent = told("--text", f"{name[:-1]}9=a mug", code=1)
    assert f"text of '{name[:-1]}9': no such object is tracked in any take" in absent
    assert "OBJECT=TEXT expected" in told("--text", "a mug")
    assert "two texts" in told("--text", "cup=a mug", "--text", "cup=a red mug")
    assert "know none of its words" in told("--text", f"{name}=eine Tasse", code=1)
