"""Prometheus metrics, and the records that workers share."""
