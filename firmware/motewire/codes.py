"""Alarm codes, the keys of status and downlink maps, and config keys. Numbers are for ever; names are for people."""

from motewire._const import const

ALARM_CLEARED = const(1)
ALARM_ABOVE = const(2)
ALARM_BELOW = const(3)
ALARM_FAULT = const(4)
ALARM_EVENT = const(5)

STATUS_UPTIME_S = const(1)
STATUS_RESET_CAUSE = const(2)
STATUS_BOOTS = const(3)
STATUS_SCHEMA = const(4)  # {number: [quantity ids]}
STATUS_FIRMWARE = const(5)
STATUS_HEAP_FREE = const(6)
STATUS_OUTBOX = const(7)  # frames waiting for an ack
STATUS_CLOCK = const(8)  # 0 none, 1 kept over a reset, 2 set by downlink
STATUS_RSSI = const(9)  # dBm, as the node heard the last downlink
STATUS_SNR = const(10)  # quarter dB
STATUS_SENSOR_FAULTS = const(11)  # [quantity ids without a working sensor]
STATUS_BATTERY = const(12)  # 10 mV
STATUS_ROWS_LOST = const(13)  # rows evicted from a full outbox since provisioning
STATUS_EXCEPTION = const(14)  # last words of the boot before
STATUS_CONFIG = const(15)  # config version in force

DOWN_NEXT = const(1)
DOWN_MISSING = const(2)
DOWN_TIME = const(3)
DOWN_CONFIG = const(4)
DOWN_COMMAND = const(5)
DOWN_UPDATE = const(6)
DOWN_SCHEMA = const(7)
DOWN_SINCE = const(8)
DOWN_REKEY = const(9)  # [epoch, key of 16 bytes]: to be used once nothing sealed with the old one waits

CONFIG_SAMPLE_S = const(1)
CONFIG_ROW_S = const(2)
CONFIG_REPORT_S = const(3)

EXT_TIME = const(1)  # of a report or alarm: how its time came about, when not from a clock that was set
TIME_ESTIMATED = const(1)  # taken before the node knew the time, and dated without knowing how long the power was away
