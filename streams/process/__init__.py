"""What every process has: an HTTP server, logs, a watchdog and tasks in the background."""
