"""`lmeec bench`: what a step costs, by stage, engine, precision, objects and targets."""
