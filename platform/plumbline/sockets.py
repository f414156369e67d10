"""Taking a port before anything heavy starts, so that a port in use is said at once."""

import socket

from plumbline.errors import PlumblineError


def listen(host: str, port: int) -> socket.socket:
    """A bound TCP socket that does not listen yet; port 0 takes a free one. PlumblineError when it is in use."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise PlumblineError(
            f"port {port} on {host} cannot be taken: {getattr(error, 'strerror', None) or error}",
            consequence="no server was started",
            remedy="stop what listens there, or choose another --port (0 takes any free one)",
        ) from error
    return bound
