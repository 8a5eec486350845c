"""Whether the worker beside this process says that it is ready; exit code 0 if so.

Run by itself, without the packages: each look takes a few milliseconds of processor, several times a minute.
"""

import os
import socket
import sys

TIMEOUT_SECONDS = 3.0
REQUEST = b"GET /readyz HTTP/1.0\r\n\r\n"


def main() -> None:
    port = int(os.environ.get("HEADRACE_HTTP_PORT") or 0)
    if not port:
        sys.exit("set HEADRACE_HTTP_PORT: without it nothing is served that says how this worker is")
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as connection:
            connection.sendall(REQUEST)
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError as error:
        sys.exit(f"nobody answers on port {port}: {error}")
    head, _, body = answer.partition(b"\r\n\r\n")
    # What is shown by `docker inspect` says which condition does not hold.
    print(body.decode(errors="replace"))  # noqa: T201 - a command prints
    sys.exit(0 if b" 200 " in head.split(b"\r\n")[0] else 1)


if __name__ == "__main__":
    main()
