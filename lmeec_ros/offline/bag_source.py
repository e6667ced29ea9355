"""Bags for `lmeec track` and `lmeec view`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lmeec_core.errors import InputError
from lmeec_core.offline.compute import finder_of
from lmeec_core.offline.prompt_plan import read_given
from lmeec_core.offline.records import FrameRecord
from lmeec_core.offline.take_plan import method_notes
from lmeec_core.offline.units import Settings, TrackOptions, Unit, Work
from lmeec_core.recordings import FindPredictions, Viewed
from lmeec_core.viewing.options import ViewOptions
from lmeec_ros.offline import bag_units, bag_view
from lmeec_ros.offline.bag_prompts import track_prompted_bag


@dataclass(frozen=True)
class BagSource:
    """Bags, whole or not: a :class:`~lmeec_core.recordings.RecordingSource`."""

    def plan(self, options: TrackOptions) -> Work:
        """See :class:`~lmeec_core.recordings.RecordingSource`."""
        if options.objects or options.takes or options.split or options.videos:
            raise InputError(
                f"{options.source} is a bag: --object, --take, --split and --videos belong to "
                "takes; its objects are those of its query masks"
            )
        if options.num_frames != "stream":
            raise InputError(
                f"{options.source} is a bag: its number of sets is known only once they are "
                "paired; it is tracked as by the node, --num-frames stream"
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
                f"{options.source} is a bag: --take, --split and --videos belong to takes"
            )
        # The network is not loaded, so weights do not matter here.
        config = bag_units.read_config(
            options.source, options.params, {"max_objects": 1024}, options.node
        )
        plan = bag_units.plan_bag(options.source, config, options.direction)
        assert plan.recording is not None
        problems += plan.problems
        notes += plan.notes
        found = predictions(plan.units[0].direction, plan.recording.name, None)
        moments = bag_view.bag_moments(options.source, config, found, problems.append, notes.append)
        return Viewed(moments, plan.units[0].frames, options.source.resolve().name, False)
