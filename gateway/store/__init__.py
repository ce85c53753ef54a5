"""What survives: node states, raw frames, rows, the spool of events and each output's cursor."""
