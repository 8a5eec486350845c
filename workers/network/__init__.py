"""HTTP to other hosts: which addresses may be called, connections, and retries."""
