"""Prompts: objects are marked in one view, tracked in that view, and found in the other views."""

from lmeec_core.prompts.file import PlacedPrompt, Prompts, read_prompts, write_prompts
from lmeec_core.prompts.follow import PromptedTracker
from lmeec_core.prompts.matching import MatchingPromptTracker
from lmeec_core.prompts.prompt import Prompt, ViewTracker
from lmeec_core.prompts.sam2 import PromptTracker, Tracked
from lmeec_core.prompts.views import view_tracker

__all__ = [
    "MatchingPromptTracker",
    "PlacedPrompt",
    "Prompt",
    "PromptTracker",
    "PromptedTracker",
    "Prompts",
    "Tracked",
    "ViewTracker",
    "read_prompts",
    "view_tracker",
    "write_prompts",
]
