"""Topics in, topics out: subscriptions, synchronised sets, messages to arrays and back."""
