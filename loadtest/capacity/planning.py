"""Computes cores, hosts, memory, Redis shards, network, log and costs from the figures of one machine.

Every number that was not measured is a named assumption, and the plan prints all of them.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

from loadtest.capacity.cache import distinct, hit_ratio, hottest_missing, zipf
from loadtest.capacity.figures import Figures

MIB = 1 << 20
GB = 1e9
_DAY_S = 86_400
_MONTH_H = 730


@dataclass(frozen=True)
class Demand:
    """What the service is for: stored users and items, rankings per second at the peak, candidates of a ranking."""

    users: float
    items: float
    qps: float
    candidates: float


@dataclass(frozen=True)
class Assumptions:
    """What no benchmark measures. Money is in dollars; change any of them by `--assume NAME=VALUE`."""

    zipf: float = 0.9  # exponent of the items' popularity among candidates
    item_cache_mb: float = 64.0  # FUNNELRANK_ITEM_CACHE_MB of a worker
    utilisation: float = 0.6  # of a worker's core at the peak
    redis_utilisation: float = 0.5  # of a shard's core at the peak
    core_speed: float = 1.0  # of the planned cores, against the measured one
    cores_per_host: float = 32.0
    spare_cores_per_host: float = 2.0  # kernel, network, log shipper
    host_memory_gb: float = 128.0
    table_gb: float = 0.0  # tables beside the graph, which the workers of a host share
    shard_gb: float = 25.0  # maxmemory of a Redis shard
    redis_headroom: float = 1.25  # of maxmemory over the data
    replicas: float = 1.0  # of a shard
    host_gbit_s: float = 10.0
    network_utilisation: float = 0.5
    top_k: float = 50.0  # items of an answer, which are logged too
    log_share: float = 1.0  # of the rankings (FUNNELRANK_EXPOSURE_SHARE)
    mean_to_peak: float = 0.5  # rankings per second over a day against the peak
    log_days: float = 30.0  # that the log covers
    core_hour: float = 0.04
    memory_gb_month: float = 3.0
    log_gb_month: float = 0.02
    network_gb: float = 0.01


@dataclass(frozen=True)
class ServicePlan:
    """The result: how much of everything, and what bounds it."""

    hit_ratio: float
    ranking_ms: float
    workers: int
    hosts: int
    hosts_by: Mapping[str, float]
    host_memory_gb: float
    redis_gb: float
    shards: int
    shards_by: Mapping[str, float]
    client_gbit_s: float
    redis_gbit_s: float
    log_gb_s: float
    hottest_item: float
    dollars_month: Mapping[str, float]


def assumed(changes: Mapping[str, float]) -> Assumptions:
    """The assumptions with these changes. Raises ValueError for an unknown name or a number that makes no sense."""
    known = {field.name for field in fields(Assumptions)}
    for name, value in changes.items():
        if name not in known:
            raise ValueError(f"'{name}' is no assumption; there are: {', '.join(sorted(known))}")
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{name}: {value:g} is no amount")
        if name.endswith("utilisation") and not 0 < value < 1:
            raise ValueError(f"{name}: {value:g} is no share between 0 and 1")
        positive = ("core_speed", "shard_gb", "host_memory_gb", "host_gbit_s")
        if name in positive and not value:
            raise ValueError(f"{name}: it is a divisor and cannot be 0")
    made = replace(Assumptions(), **changes)
    if made.cores_per_host - made.spare_cores_per_host < 1:
        raise ValueError("cores_per_host: no core is left beside spare_cores_per_host")
    return made


def plan_of(figures: Figures, demand: Demand, assumptions: Assumptions) -> ServicePlan:
    """Compute the plan. Raises ValueError if a worker does not fit into a host's memory."""
    # A ranking: the candidates that no cache holds cost more.
    cache_rows = min(assumptions.item_cache_mb * MIB / figures.cached_item_bytes, demand.items)
    popularity = distinct(zipf(demand.items, assumptions.zipf), demand.candidates)
    ratio = hit_ratio(popularity, cache_rows)
    missing = demand.candidates * (1 - ratio)
    ranking_ms = figures.ranking_ms.at(demand.candidates, missing) / assumptions.core_speed
    workers = max(1, math.ceil(demand.qps * ranking_ms / 1000 / assumptions.utilisation))
    # Hosts: by cores, by memory, by network. A worker holds its cache; the host holds the tables once.
    worker_gb = (figures.worker_mib * MIB + cache_rows * figures.cached_item_bytes) / GB
    room_gb = assumptions.host_memory_gb - assumptions.table_gb
    if room_gb < worker_gb:
        raise ValueError(f"host_memory_gb: {assumptions.host_memory_gb:g} GB hold no worker beside the tables")
    answered = min(assumptions.top_k, demand.candidates)
    client_bytes = figures.request_bytes.at(demand.candidates, missing) + figures.answer_bytes.at(answered, 0)
    redis_bytes = figures.redis_bytes.at(demand.candidates, missing)
    client_gbit_s = demand.qps * client_bytes * 8 / GB
    redis_gbit_s = demand.qps * redis_bytes * 8 / GB
    log_gb_s = demand.qps * assumptions.log_share * figures.log_bytes.at(answered, 0) / GB
    traffic_gbit_s = client_gbit_s + redis_gbit_s + 8 * log_gb_s
    hosts_by = {
        "cores": workers / (assumptions.cores_per_host - assumptions.spare_cores_per_host),
        "memory": workers * worker_gb / room_gb,
        "network": traffic_gbit_s / (assumptions.host_gbit_s * assumptions.network_utilisation),
    }
    hosts = max(1, math.ceil(max(hosts_by.values())))
    # Shards: by the rows' memory, by CPU.
    redis_gb = (demand.users * figures.user_bytes + demand.items * figures.item_bytes) / GB
    redis_ms = figures.redis_ms.at(demand.candidates, missing) / assumptions.core_speed
    shards_by = {
        "memory": redis_gb * assumptions.redis_headroom / assumptions.shard_gb,
        "CPU": demand.qps * redis_ms / 1000 / assumptions.redis_utilisation,
    }
    shards = max(1, math.ceil(max(shards_by.values())))
    # Costs of a month. Workers are paid for at the peak; logs and traffic follow the mean.
    nodes = shards * (1 + assumptions.replicas)
    log_gb_day = log_gb_s * assumptions.mean_to_peak * _DAY_S
    month_gb = (client_gbit_s + redis_gbit_s) / 8 * assumptions.mean_to_peak * _MONTH_H * 3600
    dollars = {
        "ranking cores": hosts * assumptions.cores_per_host * assumptions.core_hour * _MONTH_H,
        "Redis memory": nodes * assumptions.shard_gb * assumptions.memory_gb_month,
        "Redis cores": nodes * assumptions.core_hour * _MONTH_H,
        "log": log_gb_day * assumptions.log_days * assumptions.log_gb_month,
        "network": month_gb * assumptions.network_gb,
    }
    return ServicePlan(
        hit_ratio=ratio,
        ranking_ms=ranking_ms,
        workers=workers,
        hosts=hosts,
        hosts_by=hosts_by,
        host_memory_gb=math.ceil(workers / hosts) * worker_gb + assumptions.table_gb,
        redis_gb=redis_gb,
        shards=shards,
        shards_by=shards_by,
        client_gbit_s=client_gbit_s,
        redis_gbit_s=redis_gbit_s,
        log_gb_s=log_gb_s,
        hottest_item=hottest_missing(popularity, cache_rows),
        dollars_month=dollars,
    )


def lines_of(plan: ServicePlan, figures: Figures, demand: Demand, assumptions: Assumptions) -> Iterator[str]:
    """The plan for the terminal: the amounts, then the drivers of cost, the assumptions and what was measured."""
    bound = max(plan.hosts_by, key=lambda name: plan.hosts_by[name])
    shard_bound = max(plan.shards_by, key=lambda name: plan.shards_by[name])
    log_day = plan.log_gb_s * assumptions.mean_to_peak * _DAY_S / 1000
    missing = demand.candidates * (1 - plan.hit_ratio)
    yield f"{'item cache':<16}{plan.hit_ratio:>14.1%}  of candidates; {missing:,.0f} rows per ranking come from Redis"
    yield f"{'a ranking':<16}{plan.ranking_ms:>11.2f} ms  of CPU"
    yield f"{'workers':<16}{plan.workers:>14,}  one core each"
    yield f"{'hosts':<16}{plan.hosts:>14,}  by {bound}: {_shares(plan.hosts_by)}"
    yield f"{'memory':<16}{plan.host_memory_gb:>11.1f} GB  per host"
    yield f"{'Redis':<16}{plan.redis_gb:>11,.1f} GB  of rows and sequences"
    replicas = f"each with {assumptions.replicas:g} replicas"
    yield f"{'Redis shards':<16}{plan.shards:>14,}  {replicas}, by {shard_bound}: {_shares(plan.shards_by)}"
    yield f"{'network':<16}{plan.client_gbit_s:>7,.2f} Gbit/s  with callers, {plan.redis_gbit_s:,.2f} Gbit/s with Redis"
    yield f"{'log':<16}{plan.log_gb_s:>9,.3f} GB/s  at the peak, {log_day:,.2f} TB a day"
    share = plan.hottest_item * missing * demand.qps
    yield f"{'hottest item':<16}{share:>12,.0f}/s  reads of one Redis key beyond the caches"
    total = sum(plan.dollars_month.values())
    yield f"\n{'cost drivers':<16}{total:>14,.0f}  dollars a month"
    for name, dollars in sorted(plan.dollars_month.items(), key=lambda pair: -pair[1]):
        yield f"  {name:<14}{dollars:>14,.0f}  {dollars / total if total else 0:.0%}"
    yield "\nassumed (--assume NAME=VALUE):"
    for field in fields(assumptions):
        yield f"  {field.name:<22}{getattr(assumptions, field.name):g}"
    machine = f"{figures.machine.get('processor')}, {figures.machine.get('cores')} cores"
    yield f"\nmeasured: {figures.model}, {figures.behaviours} behaviours, {machine}"
    for line in check_lines(figures):
        yield f"  {line}"


def check_lines(figures: Figures) -> Iterator[str]:
    """What the plan said and what was measured, a line for each figure, in columns as wide as the longest name."""
    width = max((len(check.what) for check in figures.checks), default=0)
    for check in figures.checks:
        yield f"{check.what:<{width}}  planned {check.planned:>9.3f}  real {check.real:>9.3f}  {check.error:+.0%}"


def _shares(by: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amount:,.1f}" for name, amount in by.items())
