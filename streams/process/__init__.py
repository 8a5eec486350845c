"""What every process needs: an HTTP server, logs, a watchdog, background tasks and interpreter settings."""
