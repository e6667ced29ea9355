"""The ROS 2 edge of LM-EEC: topics in, tracker, topics out. It holds no tensor arithmetic."""

from lmeec_ros.moved import install

install()
