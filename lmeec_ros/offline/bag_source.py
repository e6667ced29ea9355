"""Bags as the recordings of `lmeec track` and `lmeec view`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lmeec_core.errors import InputError
from lmeec_core.offline.compute import finder_of
from lmeec_core.offline.prompt_plan import read_given
from lmeec_core.offline.records import FrameRecord
from lmeec_core.offline.take_plan import method_notes
from lmeec_core.offline.units import Plan, Settings, TrackOptions, Unit, Work
from lmeec_core.recordings import FindPredictions, Viewed
from lmeec_core.viewing.moments import Predictions
from lmeec_core.viewing.options import ViewOptions
from lmeec_ros.offline import bag_units, bag_view
from lmeec_ros.offline.bag_prompts import track_prompted_bag
from lmeec_ros.parameters.config import NodeConfig


@dataclass(frozen=True)
class BagSource:
    """Bags, even damaged ones, as a :class:`~lmeec_core.recordings.RecordingSource`."""

    def plan(self, options: TrackOptions) -> Work:
        """See :class:`~lmeec_core.recordings.RecordingSource`."""
        if options.objects or options.takes or options.split or options.videos:
            raise InputError(
                f"{options.source} is a bag: --object, --take, --split and --videos are for takes "
                "(the objects of a bag are those of its query masks)"
            )
        if options.num_frames != "stream":
            raise InputError(
                f"{options.source} is a bag: its number of sets is unknown before pairing, so only "
                "--num-frames stream (as in the node) is possible"
            )
        prompts, how = read_given(options)
        changes = dict(options.changes)
        if how is not None and how.preset is not None:
            changes |= {"prompts.preset": how.preset, "prompts.checkpoint": how.checkpoint or ""}
        config = bag_units.read_config(
            options.source, options.params, changes, options.node, prompts is not None
        )
        plan = bag_units.plan_bag(options.source, config, options.direction, prompts)
        settings = bag_units.settings_of(config, options.threads)
        settings = settings.model_copy(update={"cycle_check": options.cycle_check, "prompts": how})
        notes = method_notes(settings, config.changed_settings())
        return Work(self, settings, [plan], notes)

    def track(
        self, unit: Unit, settings: Settings, problems: list[str], notices: list[str]
    ) -> Iterator[FrameRecord]:
        """See :class:`~lmeec_core.recordings.RecordingSource`."""
        track = bag_units.track_bag if settings.prompts is None else track_prompted_bag
        return track(unit, settings, finder_of(settings), problems, notices)

    def open(
        self,
        options: ViewOptions,
        predictions: FindPredictions,
        problems: list[str],
        notes: list[str],
    ) -> Viewed:
        """See :class:`~lmeec_core.recordings.RecordingSource`."""
        if options.take or options.split or options.videos:
            raise InputError(
                f"{options.source} is a bag: --take, --split and --videos are for takes"
            )
        config, plan, found = _opened(options, predictions)
        problems += plan.problems
        notes += plan.notes
        moments = bag_view.bag_moments(options.source, config, found, problems.append, notes.append)
        file = Path(config.geometry.calibration) if config.geometry.calibration else None
        name = options.source.resolve().name
        return Viewed(moments, plan.units[0].frames, name, False, file)


def _opened(options: ViewOptions, find: FindPredictions) -> tuple[NodeConfig, Plan, Predictions]:
    """The configuration, plan and predictions for a bag.

    If the predictions were tracked from prompts, their own masks serve as query masks, and sets are
    paired without the query masks of the bag.
    """

    def plan(prompted: bool) -> tuple[NodeConfig, Plan]:
        # The network is not loaded here, so the limit costs nothing.
        changes = {"max_objects": 1024}
        config = bag_units.read_config(
            options.source, options.params, changes, options.node, prompted
        )
        return config, bag_units.plan_bag(options.source, config, options.direction)

    def found(planned: Plan) -> Predictions:
        assert planned.recording is not None
        return find(planned.units[0].direction, planned.recording.name, None)

    try:
        config, planned = plan(prompted=False)
    except InputError:  # maybe the bag has no query masks, because it needs none
        if options.predictions is None:
            raise
        config, planned = plan(prompted=True)
        predictions = found(planned)
        if not predictions.tracked:
            raise
        return config, planned, predictions
    predictions = found(planned)
    if predictions.tracked:
        config, planned = plan(prompted=True)
    return config, planned, predictions
