"""ROS 2 (and ROS 1) bags as files: formats only, read and written with rosbags, without ROS."""
