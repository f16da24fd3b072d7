"""The address of a server: whether it can listen there, how a URL spells it, and the hosts that requests may name.

Checked before the imports and the model, which take seconds.
"""

import errno
import ipaddress
import os
import socket

from ..errors import UserError, one_line


def check_address(host: str, port: int) -> None:
    """Raises `UserError` if this machine does not have the address, or if its port is in use or not allowed."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address, family=family).close()
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that is too long
        number = getattr(error, "errno", None) or 0
        if number == errno.EADDRINUSE:
            raise UserError(f"--port {port} is in use on {host}; choose another port, or stop its server.") from error
        reason = os.strerror(number) if number > 0 else one_line(error)  # below 0: a name that is not found
        raise UserError(
            f"--host {host} --port {port}: no server can listen there ({reason}); give an address of this machine, "
            "e.g. 127.0.0.1."
        ) from error


def url_host(host: str) -> str:
    """A host as a URL has it: addresses of IPv6 are in brackets."""
    return f"[{host}]" if ":" in host else host


def allowed_hosts(host: str) -> list[str]:
    """The hosts that requests to a server at `host` may name, as starlette's TrustedHostMiddleware takes them."""
    try:
        if ipaddress.ip_address(host).is_unspecified:  # all addresses of the machine, whose names are not known
            return ["*"]
    except ValueError:
        pass  # a name
    return ["localhost", "127.0.0.1", "[::1]", url_host(host)]
