"""Class-agnostic candidate masks of a view: what a method chooses among."""
