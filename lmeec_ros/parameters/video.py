"""Recognise video streams, which the node cannot read, and suggest a remedy.

Each packet of a video depends on earlier ones, but pairing drops images, and one lost packet would
corrupt all following frames. So video has to be decoded before the node, by image_transport.
"""

from __future__ import annotations

PACKETS = {
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": "ffmpeg",
    "foxglove_msgs/msg/CompressedVideo": "foxglove",
}
"""Message type of video packets to its transport in image_transport."""
TRANSPORTS = ("ffmpeg", "h264", "h265", "hevc", "av1", "foxglove", "theora")
"""Values of a parameter `transport`, or of CompressedImage.format, that denote video."""


def is_video(transport: str) -> bool:
    """Return whether a transport, or the format of a CompressedImage, denotes video."""
    return transport.strip().lower().startswith((*TRANSPORTS, "x264", "x265"))


def remedy(topic: str, parameter: str, transport: str = "ffmpeg") -> str:
    """Return how to turn a video stream into images.

    Args:
        topic: topic of the stream, with or without the transport as its last part.
        parameter: prefix of the input's parameters, such as "cameras.ego."
        transport: transport of the stream.
    """
    base = topic.removesuffix(f"/{transport}")
    return (
        "video packets are not supported, since each depends on earlier ones and pairing drops "
        f"images; decode the video first: ros2 run image_transport republish --ros-args -p "
        f"in_transport:={transport} -p out_transport:=raw -r in/{transport}:={base}/{transport} -r "
        f"out:={base}/decoded, and set {parameter}topic to {base}/decoded, {parameter}transport to "
        "raw"
    )
