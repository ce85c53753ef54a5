"""Alarm codes, the keys of status and downlink maps, config keys, ladder levels and command states. Numbers are for ever; names are for people."""

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
STATUS_POWER = const(16)  # [asleep, awake, radio, sensors] in s since power-on
STATUS_TEMPERATURE = const(17)  # of the board, deg C
STATUS_DRIFT = const(18)  # of the node's clock, ppm; positive: it runs fast
STATUS_LADDER = const(19)  # [level, quantity ids left out ...]; levels below
STATUS_COMMAND = const(20)  # [id, state, ? detail text]; states below
STATUS_SLOT = const(21)  # firmware slot, text
STATUS_PROBLEM = const(22)  # why a configuration was refused or given up, or nothing watches the supply, text
STATUS_WRITES = const(23)  # flash writes refused at low supply

LADDER_NORMAL = const(0)
LADDER_ONE = const(1)  # one sensor is left out
LADDER_OPTIONS = const(2)  # the configuration's sensors and alarms are left out
LADDER_ALL = const(3)  # all sensors
LADDER_SAFE = const(4)  # the node itself: link, downlinks and status only

COMMAND_ACCEPTED = const(1)
COMMAND_DONE = const(2)
COMMAND_FAILED = const(3)
COMMAND_EXPIRED = const(4)
COMMAND_REFUSED = const(5)

DOWN_NEXT = const(1)
DOWN_MISSING = const(2)
DOWN_TIME = const(3)
DOWN_CONFIG = const(4)
DOWN_COMMAND = const(5)
DOWN_UPDATE = const(6)
DOWN_SCHEMA = const(7)
DOWN_SINCE = const(8)
DOWN_REKEY = const(9)  # [epoch, key of 16 bytes]: to be used once nothing sealed with the old one waits

DOWN_EXPIRY = const(10)  # Unix time after which the command of this frame must not begin

CONFIG_NAMES = (  # config key numbers 1..15 are ints of the configuration
    "", "sample_s", "row_s", "report_s", "health_s", "ack_age_s", "jitter_s", "sf", "stage_every", "log", "hello_s", "backoff_s",
    "prove_s", "emergency_sample_s", "emergency_row_s", "emergency_report_s",
)  # fmt: skip
CONFIG_ALARM = const(16)  # [quantity, direction, limit, ? clear, ? hold, ? step, ? update_s, ? boost]
CONFIG_PIECE = const(17)  # [transaction, index, count, bytes]: a piece of a JSON object

EXT_TIME = const(1)  # of a report or alarm: how its time came about, when not from a clock that was set
TIME_ESTIMATED = const(1)  # taken before the node knew the time, and dated without knowing how long the power was away
