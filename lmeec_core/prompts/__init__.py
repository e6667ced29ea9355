"""Objects that a person marks once: prompts, tracking in the view that was marked, and from there
to the other views."""

from lmeec_core.prompts.follow import PromptedTracker
from lmeec_core.prompts.matching import MatchingPromptTracker
from lmeec_core.prompts.prompt import Prompt, ViewTracker
from lmeec_core.prompts.sam2 import PromptTracker, Tracked
from lmeec_core.prompts.views import view_tracker

__all__ = [
    "MatchingPromptTracker",
    "Prompt",
    "PromptTracker",
    "PromptedTracker",
    "Tracked",
    "ViewTracker",
    "view_tracker",
]
