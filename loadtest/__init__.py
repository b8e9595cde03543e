"""Load tests: open-loop locust users that speak the ranking API over HTTP and check every answer."""
