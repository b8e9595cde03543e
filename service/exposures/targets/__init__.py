"""Targets of the exposure log: object stores and Kafka, to which closed files of a spool are sent."""
