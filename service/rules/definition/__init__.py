"""The rules document: what operators write, one class per type of rule, by scene."""
