"""The online part: the HTTP service that ranks. It never imports torch."""
