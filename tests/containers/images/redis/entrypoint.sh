#!/bin/bash
set -euo pipefail
if [ "$1" != redis-server ]; then
    exec "$@"
fi
shift
# Other containers come in without a password, as in the official image.
set -- redis-server --protected-mode no "$@"
if [ "$(id -u)" = 0 ]; then
    chown redis:redis .
    exec setpriv --reuid=redis --regid=redis --init-groups "$@"
fi
exec "$@"
