"""Grafana boards, made by code."""
