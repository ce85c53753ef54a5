"""Schema numbers: fixed lists of quantity ids, so that a report names its columns in one byte. Append only."""

SCHEMAS = {
    1: (1, 2, 3),  # climate: temperature, humidity, pressure
    2: (9, 10, 11, 12, 13),  # noise: LAeq, LAFmax, LA10, LA50, LA90
    3: (4, 5, 6, 1, 2, 3),  # air: PM1, PM2.5, PM10, temperature, humidity, pressure
    4: (14, 15),  # water: volume, flow
    5: (14, 15, 16),  # water with pressure
    6: (24, 18, 1, 19),  # bin: distance, fill, temperature, tilt
    8: (4, 5, 6, 7, 8, 1, 2, 3),  # air with gases
    12: (17,),  # parking bay: occupied, as events
    13: (17, 26),  # parking bay: occupied and confidence, as events
}
