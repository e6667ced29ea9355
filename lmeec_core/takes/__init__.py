"""Recordings on disk: takes in EgoExo4D's layouts, splits, result files, mask RLE.

    takes = open_takes("path/to/dataset", "val")   # or one take, or relations_val.json
    take = Take.open("path/to/take")
    rgb = take.image(take.ego, 30)                 # uint8 (H, W, 3)
    mask = take.mask("cup", take.exos[0], 30)      # bool (H, W) or None

Files are read only when needed, and decoded images and masks are not kept, so memory use does not
depend on the length of a take.
"""

from lmeec_core.takes.cameras import DIRECTIONS, CameraPair, camera_pairs, is_ego
from lmeec_core.takes.collection import Takes, open_one, open_takes
from lmeec_core.takes.images import decode_image, encode_jpeg
from lmeec_core.takes.relations import RelationsFile, RelationsTake
from lmeec_core.takes.results import Prediction, Results, write_results
from lmeec_core.takes.rle import decode_mask, encode_mask, resize_mask
from lmeec_core.takes.splits import read_split
from lmeec_core.takes.take import Take, TakeError
from lmeec_core.takes.writer import TakeWriter

__all__ = [
    "DIRECTIONS",
    "CameraPair",
    "Prediction",
    "RelationsFile",
    "RelationsTake",
    "Results",
    "Take",
    "TakeError",
    "TakeWriter",
    "Takes",
    "camera_pairs",
    "decode_image",
    "decode_mask",
    "encode_jpeg",
    "encode_mask",
    "is_ego",
    "open_one",
    "open_takes",
    "read_split",
    "resize_mask",
    "write_results",
]
