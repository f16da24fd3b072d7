"""Whether a server can listen at an address; tried before the imports and the model, which take seconds."""

import socket

from ..errors import UserError


def check_address(host: str, port: int) -> None:
    """Raise `UserError` if this machine does not have the address, or if its port is in use or not allowed."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"--host {host}: there is no such address; give one of this machine, e.g. 127.0.0.1."
        ) from error
    family, kind, protocol, _, address = addresses[0]
    try:
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
    except OSError as error:
        raise UserError(
            f"The page cannot be served at {host}, port {port}: {error.strerror}; choose another --port or --host."
        ) from error
