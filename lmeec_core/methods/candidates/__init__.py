"""Class-agnostic candidate masks of a view, among which a method chooses."""
