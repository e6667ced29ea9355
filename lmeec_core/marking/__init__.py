"""`lmeec mark`: a web page on which objects are marked, and seen in all views."""
