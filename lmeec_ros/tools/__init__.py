"""Commands that need ROS: play, record, demo, soak, bench --node, mark --live."""
