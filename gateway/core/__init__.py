"""The pure core: no clock, log, socket, await or randomness. Time, keys and state come in; new state and events go out."""
