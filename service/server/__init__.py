"""The server process: the ASGI application, its start, and what one connection may cost."""
