"""Objects that a person marks once: prompts, tracking in the view that was marked, and from there
to the other views."""

from lmeec_core.prompts.file import PlacedPrompt, Prompts, read_prompts, write_prompts
from lmeec_core.prompts.follow import PromptedTracker
from lmeec_core.prompts.prompt import Prompt, ViewTracker
from lmeec_core.prompts.sam2 import PromptTracker, Tracked

__all__ = [
    "PlacedPrompt",
    "Prompt",
    "PromptTracker",
    "PromptedTracker",
    "Prompts",
    "Tracked",
    "ViewTracker",
    "read_prompts",
    "write_prompts",
]
