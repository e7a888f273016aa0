"""Exit 0 when the hub of this container serves on every endpoint. For HEALTHCHECK; needs the standard library only."""

import http.client
import os
import ssl
import sys


def main() -> int:
    """Ask /readyz where the settings of the environment say the hub is."""
    port = int(os.environ.get("GRIDWIRE_HTTP_PORT", "8700"))
    connection: http.client.HTTPConnection
    if os.environ.get("GRIDWIRE_TLS_CERT"):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is this very container
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=4, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", "/readyz")
        return 0 if connection.getresponse().status == 200 else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
