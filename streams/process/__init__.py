"""What every process needs: an HTTP server, logs, a watchdog, a timer of the interpreter, background tasks and interpreter settings."""
