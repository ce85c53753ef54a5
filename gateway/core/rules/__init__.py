"""Rules: limits with hysteresis on rows and aggregates, faults that know about backlog, batteries, and what people are told."""
