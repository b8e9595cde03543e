"""Who may call the service: keys and roles of callers, the admin token, pages of other origins."""
