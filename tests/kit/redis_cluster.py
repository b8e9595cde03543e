"""A real Redis Cluster on loopback for the tests, as the benchmark of Redis starts it."""

from bench.measuring.redis_cluster import SLOTS, RedisCluster, node_port, redis_cluster, wait_for
from bench.measuring.redis_cluster import ClusterNode as Node

__all__ = ["SLOTS", "Node", "RedisCluster", "node_port", "redis_cluster", "wait_for"]
