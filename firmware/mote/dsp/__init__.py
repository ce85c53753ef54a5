"""Signal processing of the node in integers: A weighting, levels, their statistics, bay occupancy. Pure: no bus, no clock."""
