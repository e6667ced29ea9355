"""`lmeec soak`: run the node under random faults for hours, and check that it recovers."""
