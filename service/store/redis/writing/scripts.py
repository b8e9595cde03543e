"""The Lua scripts that write to Redis. Each has a bounded number of steps, because a script blocks Redis."""

from collections.abc import Iterable, Sequence

from features.layouts import EVENT_KEY_BYTES
from service.store.base import NEVER, Lifetimes
from service.store.shown import ENTRY_BYTES

# The highest number of members that one call drops. There are more only if another program wrote them; later calls drop
# the rest.
_DROPPED_AT_ONCE = 2_000
_ADDED_AT_ONCE = 1_000  # scores and members of one ZADD: Lua hands over a bounded number of arguments

# KEYS: the sequence, the user's row. ARGV: how many behaviours to keep, the present time (ms), the lifetimes of the
# sequence and of the row without an event (ms, 0: none), then time and member of each event.
#
# One event is one member: at its time, a member that begins with the same event key is replaced in its place, and not
# doubled. The order comes from the score, so that events may arrive in any order. Of events of one millisecond a later
# arrival counts as newer, as a later row does in training: its score lies 1/2048 above the last one's, which a double
# holds exactly until the year 2109.
#
# Entries are counted apart for the past (the newest) and the future (the next), so that events ahead of time, as a
# wrong clock sends them, never push out real ones. The result counts the new events that stay.
#
# Steps: what lies between the first and the last event is read once and written once, so that n events cost about n
# steps, however their times lie.
ADD_BEHAVIOURS = f"""
local key, keep, now = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local before = string.format('(%.17g', ARGV[#ARGV - 1] + 1)
local there = redis.pcall('ZRANGEBYSCORE', key, ARGV[5], before, 'WITHSCORES', 'LIMIT', 0, 4 * keep)
if there.err then
  redis.call('UNLINK', key)
  there = {{}}
end

local at = {{}}
local function of_time(time)
  if not at[time] then at[time] = {{member = {{}}, score = {{}}}} end
  return at[time]
end
for k = 1, #there, 2 do
  local own = of_time(math.floor(there[k + 1]))
  local event = string.sub(there[k], 1, {EVENT_KEY_BYTES})
  own.member[event], own.score[event], own.last = there[k], there[k + 1], there[k + 1]
end

local fresh, count, add = {{}}, 0, {{}}
for i = 5, #ARGV, 2 do
  local time, member = tonumber(ARGV[i]), ARGV[i + 1]
  local own, event = of_time(time), string.sub(member, 1, {EVENT_KEY_BYTES})
  local score, old = own.score[event], own.member[event]
  if not score then
    score = ARGV[i]
    if own.last then score = string.format('%.17g', math.min(own.last + 1 / 2048, time + 2047 / 2048)) end
    own.last, own.score[event] = score, score
    fresh[member], count = true, count + 1
  elseif old ~= member then
    redis.call('ZREM', key, old)
  end
  if old ~= member then add[#add + 1], add[#add + 2] = score, member end
end
for first = 1, #add, {_ADDED_AT_ONCE} do
  redis.call('ZADD', key, unpack(add, first, math.min(first + {_ADDED_AT_ONCE} - 1, #add)))
end

for i = 1, 2 do
  local lifetime = tonumber(ARGV[i + 2])
  if lifetime > 0 then redis.call('PEXPIRE', KEYS[i], lifetime) else redis.pcall('PERSIST', KEYS[i]) end
end

local size = redis.call('ZCARD', key)
if size <= keep then return count end
local past = redis.call('ZCOUNT', key, '-inf', string.format('(%.17g', now + 1))
local function drop(first, last)
  last = math.min(last, first + {_DROPPED_AT_ONCE} - 1)
  for _, member in ipairs(redis.call('ZRANGE', key, first, last)) do
    if fresh[member] then count = count - 1 end
  end
  redis.call('ZREMRANGEBYRANK', key, first, last)
end
if size - past > keep then drop(past + keep, size - 1) end
if past > keep then drop(0, past - keep - 1) end
return count
"""

# ARGV: the number of bytes to keep, the lifetime without a change (ms), the new entries. An entry that exists is not
# added again. The newest arrivals stay. A key of another type, or of another length, counts as empty.
#
# Steps: each existing and each new entry is read once.
ADD_SHOWN = f"""
local there = redis.pcall('GET', KEYS[1])
if type(there) ~= 'string' or #there % {ENTRY_BYTES} ~= 0 then there = '' end

local holds = {{}}
for first = 1, #there, {ENTRY_BYTES} do
  holds[string.sub(there, first, first + {ENTRY_BYTES} - 1)] = true
end
local fresh = {{}}
for first = 1, #ARGV[3], {ENTRY_BYTES} do
  local entry = string.sub(ARGV[3], first, first + {ENTRY_BYTES} - 1)
  if not holds[entry] then fresh[#fresh + 1] = entry end
end
there = there .. table.concat(fresh)
redis.call('SET', KEYS[1], string.sub(there, -tonumber(ARGV[1])), 'PX', ARGV[2])
return #fresh
"""

# ARGV: the row that was read (empty for none), the new row, its lifetime without a change (ms, 0: none). Writes only if
# the row has not changed since, so that of two partial updates neither is lost. A key of another type counts as no row,
# and is replaced.
REPLACE_ROW = """
local row = redis.pcall('GET', KEYS[1])
if type(row) ~= 'string' then row = '' end
if row ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
if tonumber(ARGV[3]) > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1
"""


def behaviours_to_send(behaviours: Iterable[tuple[int, bytes]], keep: int, now_ms: int) -> Sequence[tuple[int, bytes]]:
    """Return those behaviours `(time in ms, event key + packed row)` of one user that fit, in order of time.

    If an event occurs twice, its first position and its last row are used. Of the past, the newest `keep` are sent, of
    the future the next `keep`, so that the work of Redis per call is bounded.
    """
    rows = {(time_ms, member[:EVENT_KEY_BYTES]): member for time_ms, member in behaviours}
    in_order = sorted(((time_ms, member) for (time_ms, _), member in rows.items()), key=lambda each: each[0])
    past = [each for each in in_order if each[0] <= now_ms]
    future = [each for each in in_order if each[0] > now_ms]
    return past[-keep:] + future[:keep]


def add_behaviours_arguments(
    behaviours: Sequence[tuple[int, bytes]], keep: int, now_ms: int, lifetimes: Lifetimes = NEVER
) -> list[int | bytes]:
    """Build ARGV of `ADD_BEHAVIOURS` from the result of `behaviours_to_send`."""
    arguments: list[int | bytes] = [keep, now_ms, lifetimes.behaviours_ms, lifetimes.user_ms]
    for time_ms, member in behaviours:
        arguments += (time_ms, member)
    return arguments
