"""Pairing by stamps, without ROS: what the node and the offline tools share."""
