"""ROS 2 interface of LM-EEC: subscriptions, tracker, publishers. It contains no tensor code."""

from lmeec_ros.moved import install

install()
