"""`lmeec bench`: the cost of a step, by stage, engine, precision, objects and targets."""
