"""Aggregates on row time: what hours, days, noise days, nights, lots and shafts were. Late rows reopen what they belong to."""
