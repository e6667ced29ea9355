"""`lmeec mark`: a web page for marking objects and seeing their masks in all views."""
