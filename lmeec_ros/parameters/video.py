"""Video streams, which are not read: what to say about them.

Each of their packets needs those before it, but pairing leaves out images, and a lost one would
spoil all that follow. So they are decoded before the node, by image_transport.
"""

from __future__ import annotations

PACKETS = {
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": "ffmpeg",
    "foxglove_msgs/msg/CompressedVideo": "foxglove",
}
"""Type of messages that hold packets of a video to its transport for image_transport."""
TRANSPORTS = ("ffmpeg", "h264", "h265", "hevc", "av1", "foxglove", "theora")
"""Values of a parameter `transport`, or of CompressedImage.format, that mean a video."""


def is_video(transport: str) -> bool:
    """Whether a transport, or the format of a CompressedImage, is a video's."""
    return transport.strip().lower().startswith((*TRANSPORTS, "x264", "x265"))


def remedy(topic: str, parameter: str, transport: str = "ffmpeg") -> str:
    """What to do to have the images of a video stream.

    Args:
        topic: of the stream; with or without the transport at its end.
        parameter: of the input, up to "topic" and "transport", as "cameras.ego."
        transport: of the stream.
    """
    base = topic.removesuffix(f"/{transport}")
    return (
        "packets of a video are not read, since each needs those before it and pairing leaves out "
        f"images; decode them before: ros2 run image_transport republish --ros-args -p "
        f"in_transport:={transport} -p out_transport:=raw -r in/{transport}:={base}/{transport} -r "
        f"out:={base}/decoded, and set {parameter}topic to {base}/decoded, {parameter}transport to "
        "raw"
    )
