"""Measures what a plan is made from, and checks the plan against real runs."""
