"""hal: the only importers of machine, network, esp32, lora and socket. One file per function of the board."""
