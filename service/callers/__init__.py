"""Who may call the service: the callers document, and the keys that one worker accepts."""
