"""Options shared by several sub-commands: one name, one type, one help text each."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lmeec_core.methods import METHODS

RECORDING_PANEL = "Which recording"
METHOD_PANEL = "Method, network and memory"
"""Titles of the groups of options in --help."""


class Direction(StrEnum):
    """Directions of a result file."""

    both = "both"
    ego_exo = "ego-exo"
    exo_ego = "exo-ego"

    @property
    def single(self) -> str | None:
        """The direction's name; None for both."""
        return None if self is Direction.both else self.value


Split = Annotated[
    str | None,
    typer.Option(
        help="Split of a dataset, for example test.",
        show_default="all",
        rich_help_panel=RECORDING_PANEL,
    ),
]
Videos = Annotated[
    Path | None,
    typer.Option(
        help="For a relations file: the folder of the takes' videos.",
        show_default="takes/ beside or above the file",
        rich_help_panel=RECORDING_PANEL,
    ),
]
Objects = Annotated[
    list[str] | None,
    typer.Option(
        "--object",
        help="Only this object; may be repeated (not for bags).",
        show_default="all",
        rich_help_panel=RECORDING_PANEL,
    ),
]
Parameters = Annotated[
    Path | None,
    typer.Option(
        help="For a bag: the node's parameter file, with topics and cameras.",
        show_default="read from the bag if `lmeec bag` made it",
        rich_help_panel=RECORDING_PANEL,
    ),
]
NodeName = Annotated[
    str | None,
    typer.Option(
        help="The node whose parameters in the file apply, for example /robot1/lmeec.",
        show_default="the file's node called lmeec",
        rich_help_panel=RECORDING_PANEL,
    ),
]
MethodName = Annotated[
    str | None,
    typer.Option(
        help=f"The method: {', '.join(METHODS)}.",
        show_default="lmeec",
        rich_help_panel=METHOD_PANEL,
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="File of weights.", show_default="the preset's own", rich_help_panel=METHOD_PANEL
    ),
]
PromptPreset = Annotated[
    str | None,
    typer.Option(
        help="The network that tracks objects in the view in which they were marked: nano, "
        "sam2_tiny, ...",
        show_default="the network of --preset",
        rich_help_panel=METHOD_PANEL,
    ),
]
PromptCheckpoint = Annotated[
    Path | None,
    typer.Option(
        help="Weights of the --prompt-preset network.",
        show_default="the preset's own",
        rich_help_panel=METHOD_PANEL,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Use random weights from this seed, to test a setup.",
        rich_help_panel=METHOD_PANEL,
    ),
]
Candidates = Annotated[
    str | None,
    typer.Option(
        help="For omama: where candidate masks come from: regions, sam2, or a file of masks from "
        "another program (for several takes, a folder of these files).",
        show_default="sam2 if the network accepts points, else regions",
        rich_help_panel=METHOD_PANEL,
    ),
]
MaxCandidates = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="For omama: maximum number of candidates per image.",
        show_default="100",
        rich_help_panel=METHOD_PANEL,
    ),
]
Matcher = Annotated[
    str | None,
    typer.Option(
        help="For omama: the matcher's checkpoint; the released ones use DINOv2 features.",
        show_default="none: features are compared directly",
        rich_help_panel=METHOD_PANEL,
    ),
]
Follow = Annotated[
    bool,
    typer.Option(
        "--follow",
        help="For omama: keep a memory of each object's appearance in each view.",
        rich_help_panel=METHOD_PANEL,
    ),
]


Text = Annotated[
    list[str] | None,
    typer.Option(
        metavar="OBJECT=TEXT",
        help="For omama: a description of an object's appearance, for example "
        'cup="a blue mug with a handle"; may be repeated. Needs --text-weights.',
        show_default="none",
        rich_help_panel=METHOD_PANEL,
    ),
]
TextWeights = Annotated[
    Path | None,
    typer.Option(
        help="For omama: weights for comparing descriptions with candidates (docs/training.md).",
        show_default="none",
        rich_help_panel=METHOD_PANEL,
    ),
]
TextEncoder = Annotated[
    Path | None,
    typer.Option(
        help="For omama: folder of the text model that --text-weights were trained with.",
        show_default="weights trained on hashed words need none",
        rich_help_panel=METHOD_PANEL,
    ),
]


def text_options(
    texts: Sequence[str] | None, weights: Path | None, encoder: Path | None
) -> dict[str, object]:
    """The node parameters that the text options set; None for an option that is not given.

    Raises:
        typer.BadParameter: a text names no object, or two texts name the same one.
    """
    found: dict[str, object] = {
        "omama.text_weights": None if weights is None else str(weights.resolve()),
        "omama.text_encoder": None if encoder is None else str(encoder.resolve()),
    }
    for one in texts or ():
        name, is_given, text = one.partition("=")
        if not is_given or not name.strip():
            raise typer.BadParameter(
                f"--text {one!r} given, OBJECT=TEXT expected, for example "
                'cup="a blue mug with a handle"'
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
        help="For omama with --candidates sam2: layers of overlapping crops, to find smaller "
        "objects.",
        show_default="0",
        rich_help_panel=METHOD_PANEL,
    ),
]


def candidate_options(
    source: str | None, max_candidates: int | None, crop_layers: int | None
) -> dict[str, object]:
    """The node parameters that the candidate options set; None for an option that is not given."""
    named = source in ("auto", "regions", "sam2")
    return {
        "candidates.source": source if named or source is None else "files",
        "candidates.file": None if named or source is None else str(Path(source).resolve()),
        "candidates.most": max_candidates,
        "candidates.crop_layers": crop_layers,
    }


QueryCamera = Annotated[str, typer.Option(help="Query camera: ego, exo (the first one) or a name.")]
TargetCameras = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        help="Target camera; may be repeated.",
        show_default="all cameras of the other kind",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the bag if it exists.")]
