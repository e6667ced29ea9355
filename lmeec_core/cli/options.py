"""Options shared by several sub-commands: one name, one type, one help text each."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lmeec_core.methods import METHODS

WHAT = "Which recording"
"""Title of these options in --help."""


HOW = "Method, network and memory"
"""Likewise."""


class Direction(StrEnum):
    """Directions of a result file."""

    both = "both"
    ego_exo = "ego-exo"
    exo_ego = "exo-ego"

    @property
    def one(self) -> str | None:
        """The direction; None for both."""
        return None if self is Direction.both else self.value


Split = Annotated[
    str | None,
    typer.Option(
        help="Split of a dataset, for example test.", show_default="all", rich_help_panel=WHAT
    ),
]
Videos = Annotated[
    Path | None,
    typer.Option(
        help="For a relations file: the folder of the takes' videos.",
        show_default="takes/ beside or above the file",
        rich_help_panel=WHAT,
    ),
]
Objects = Annotated[
    list[str] | None,
    typer.Option(
        "--object",
        help="Only this object; may be repeated (not for bags).",
        show_default="all",
        rich_help_panel=WHAT,
    ),
]
Parameters = Annotated[
    Path | None,
    typer.Option(
        help="For a bag: the node's parameter file, with topics and cameras.",
        show_default="read from the bag if `lmeec bag` made it",
        rich_help_panel=WHAT,
    ),
]
NodeName = Annotated[
    str | None,
    typer.Option(
        help="The node whose parameters in the file apply, for example /robot1/lmeec.",
        show_default="the file's node called lmeec",
        rich_help_panel=WHAT,
    ),
]
MethodName = Annotated[
    str | None,
    typer.Option(
        help=f"The method: {', '.join(METHODS)}.", show_default="lmeec", rich_help_panel=HOW
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Weights.", show_default="the preset's own", rich_help_panel=HOW),
]
PromptPreset = Annotated[
    str | None,
    typer.Option(
        help="The network that tracks objects where they were marked: nano, sam2_tiny, ...",
        show_default="the one that finds them in the other views",
        rich_help_panel=HOW,
    ),
]
PromptCheckpoint = Annotated[
    Path | None,
    typer.Option(
        help="Weights of that network.", show_default="the preset's own", rich_help_panel=HOW
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0, help="Random weights from this seed, to test a set-up.", rich_help_panel=HOW
    ),
]
Candidates = Annotated[
    str | None,
    typer.Option(
        help="For omama: regions, sam2, or a file with masks of another program (a folder of such "
        "files for several takes).",
        show_default="regions, or sam2 with a network that takes points",
        rich_help_panel=HOW,
    ),
]
MaxCandidates = Annotated[
    int | None,
    typer.Option(
        min=1, help="For omama: candidates of an image.", show_default="100", rich_help_panel=HOW
    ),
]
Matcher = Annotated[
    str | None,
    typer.Option(
        help="For omama: the matcher's checkpoint; with one that was released, the features are "
        "DINOv2's.",
        show_default="the features are compared themselves",
        rich_help_panel=HOW,
    ),
]
Follow = Annotated[
    bool,
    typer.Option(
        "--follow", help="For omama: remember how objects look in each view.", rich_help_panel=HOW
    ),
]


Text = Annotated[
    list[str] | None,
    typer.Option(
        metavar="OBJECT=TEXT",
        help='For omama: what an object looks like, as cup="a blue mug with a handle"; may be '
        "repeated. Needs --text-weights.",
        show_default="none",
        rich_help_panel=HOW,
    ),
]
TextWeights = Annotated[
    Path | None,
    typer.Option(
        help="For omama: how texts and candidates are compared (docs/training.md).",
        show_default="none",
        rich_help_panel=HOW,
    ),
]
TextEncoder = Annotated[
    Path | None,
    typer.Option(
        help="For omama: folder of the text model that --text-weights are for.",
        show_default="they are for words themselves",
        rich_help_panel=HOW,
    ),
]


def text_options(
    texts: Sequence[str] | None, weights: Path | None, encoder: Path | None
) -> dict[str, object]:
    """The node's parameters of these options; None where nothing is given.

    Raises:
        typer.BadParameter: a text that is not of an object.
    """
    found: dict[str, object] = {
        "omama.text_weights": None if weights is None else str(weights.resolve()),
        "omama.text_encoder": None if encoder is None else str(encoder.resolve()),
    }
    for one in texts or ():
        name, is_given, text = one.partition("=")
        if not is_given or not name.strip():
            raise typer.BadParameter(
                f'--text {one!r} given, OBJECT=TEXT expected, as cup="a blue mug with a handle"'
            )
        if f"text.{name.strip()}" in found:
            raise typer.BadParameter(f"--text: {name.strip()!r} has two texts")
        found[f"text.{name.strip()}"] = text
    return found


CropLayers = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=3,
        help="For omama's candidates by sam2: layers of overlapping crops, in which smaller "
        "objects are found.",
        show_default="0",
        rich_help_panel=HOW,
    ),
]


def candidate_options(
    given: str | None, most: int | None, crop_layers: int | None
) -> dict[str, object]:
    """The node's parameters of these options; None where nothing is given."""
    named = given in ("auto", "regions", "sam2")
    return {
        "candidates.source": given if named or given is None else "files",
        "candidates.file": None if named or given is None else str(Path(given).resolve()),
        "candidates.most": most,
        "candidates.crop_layers": crop_layers,
    }


QueryCamera = Annotated[str, typer.Option(help="Query camera: ego, exo (the first one) or a name.")]
TargetCameras = Annotated[
    list[str] | None,
    typer.Option(
        "--target", help="Target camera; may be repeated.", show_default="all of the other kind"
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the bag if it exists.")]
