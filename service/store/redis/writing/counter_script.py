"""The Lua script that adds increments to the cells of counters, and its arguments."""

from collections.abc import Iterator, Mapping, Sequence
from struct import Struct
from typing import Final

from features.counters import BUCKETS, ENTRY_BYTES, TIME
from features.layouts import Layouts
from service.store.counters import Cells, CounterWrites
from service.store.redis.keys import item_counters_key, scene_counters_key, user_counters_key

_INCREMENT = Struct("<6I")  # kind, start, size, one, two, times

# ARGV: how long to keep the key (ms), then for each cell its name, its size in bytes, and its packed increments. The
# key is a hash of cells; if the name is empty, the key itself is the cell.
#
# A bucket whose slot has an older bucket replaces it, and one that is older than the slot's is left out: its window has
# passed. Of distinct values those with the newest buckets stay. A cell of another size starts anew.
#
# Steps: each increment reads and writes one entry (a distinct value reads all entries of its series, 64 at most), and
# each cell is read and written once.
ADD_COUNTS: Final = f"""
local key = KEYS[1]
local kind = redis.call('TYPE', key).ok
local expected = ARGV[2] == '' and 'string' or 'hash'
if kind ~= 'none' and kind ~= expected then redis.call('UNLINK', key) end
for i = 2, #ARGV, 3 do
  local name, size, made = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local cell
  if name == '' then cell = redis.call('GET', key) else cell = redis.call('HGET', key, name) end
  if not cell or #cell ~= size then cell = string.rep('\\0', size) end
  local changed = {{}}
  local function entry(place)
    local own = changed[place]
    if own then return own[1], own[2] end
    local one, two = struct.unpack('<I4I4', cell, place * {ENTRY_BYTES} + 1)
    return one, two
  end
  for at = 1, #made, {_INCREMENT.size} do
    local how, start, length, one, two, times = struct.unpack('<I4I4I4I4I4I4', made, at)
    local first, second = entry(start)
    if how == {BUCKETS} then
      if one == first then changed[start] = {{one, math.min(second + two * times, 4294967295)}}
      elseif one > first then changed[start] = {{one, two * times}} end
    elseif how == {TIME} then
      if one > first or (one == first and two > second) then changed[start] = {{one, two}} end
    else
      local place, oldest = start, 4294967296
      for k = start, start + length - 1 do
        local value, newest = entry(k)
        if value == one and newest > 0 then
          place, oldest = k, newest
          break
        end
        if newest < oldest then place, oldest = k, newest end
      end
      if two > oldest then changed[place] = {{one, two}} end
    end
  end
  local parts = {{}}
  for place = 0, size / {ENTRY_BYTES} - 1 do
    local own = changed[place]
    if own then
      parts[place + 1] = struct.pack('<I4I4', own[1], own[2])
    else
      parts[place + 1] = string.sub(cell, place * {ENTRY_BYTES} + 1, place * {ENTRY_BYTES} + {ENTRY_BYTES})
    end
  end
  cell = table.concat(parts)
  if name == '' then redis.call('SET', key, cell) else redis.call('HSET', key, name, cell) end
end
redis.call('PEXPIRE', key, ARGV[1])
return #ARGV
"""

ScriptCall = tuple[str, Sequence[int | bytes]]


def count_calls(layouts: Layouts, writes: CounterWrites) -> Iterator[ScriptCall]:
    """A call of `ADD_COUNTS` for each key."""
    fingerprint = layouts.fingerprint
    for by, by_key, key_of in (
        ("item", writes.items, item_counters_key),
        ("user", writes.users, user_counters_key),
        ("scene", writes.scenes, scene_counters_key),
    ):
        # The places of the layouts name the cells of users; items and scenes have one layout each.
        sizes = {str(i): c.entries * ENTRY_BYTES for i, c in enumerate(layouts.counters) if c.by == by}
        keep_ms = max((c.keep_ms for c in layouts.counters if c.by == by), default=0)
        for entity_id, cells in by_key.items():
            yield key_of(fingerprint, entity_id), [keep_ms, *_cell_arguments(cells, sizes)]


def _cell_arguments(cells: Cells, sizes: Mapping[str, int]) -> Iterator[int | bytes]:
    for name, amounts in cells.items():
        place = name.partition(":")[0]
        yield name.encode()
        yield sizes[place] if name else next(iter(sizes.values()))
        yield b"".join(_INCREMENT.pack(i.kind, i.start, i.size, i.one, i.two, times) for i, times in amounts.items())
