"""Where the page is reached: the socket it listens on, the addresses to print, the host names to answer. No routes."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket

from core.errors import UserError
from core.text import Text

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
HOSTS = "ONECARD_HOSTS"


def is_local(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    if host == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. "::" takes IPv4 as well where the system can. Raises UserError if the port is in use."""
    bare = host.strip("[]")
    try:
        found = socket.getaddrinfo(bare or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # IPv4 first: a name such as localhost may have both, and one socket has one family.
        family, kind, protocol, _, place = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(_refused(host, port, error)) from None
    try:
        if os.name == "posix":  # elsewhere it would let two programs share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and socket.has_dualstack_ipv6():
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not _is_everywhere(host)))
        listener.bind(place)
    except OSError as error:
        listener.close()
        raise UserError(_refused(host, port, error)) from None
    return listener


def addresses(host: str, port: int) -> tuple[str, list[str]]:
    """The address to open on this machine, and those under which other machines find it."""
    if not _is_everywhere(host):
        return _http(host, port), []
    both = ":" in host and socket.has_dualstack_ipv6()
    here = "[::1]" if ":" in host and not both else "127.0.0.1"
    kinds = (4, 6) if both else ((6,) if ":" in host else (4,))
    seen = (ip for ip in _interfaces() if ip.version in kinds and not (ip.is_loopback or ip.is_link_local))
    return _http(here, port), [_http(str(ip), port) for ip in sorted(seen, key=lambda ip: (ip.version, int(ip)))]


def host_names(host: str) -> set[str]:
    """What a browser may call this machine when the page listens on `host`, with the names in $ONECARD_HOSTS."""
    names = {*LOCAL_HOSTS, *os.environ.get(HOSTS, "").replace(",", " ").split()}
    if not _is_everywhere(host):
        names.add(host)
    if not is_local(host):
        names |= {str(ip) for ip in _interfaces()} | {socket.gethostname(), socket.getfqdn()}
    return names


def _is_everywhere(host: str) -> bool:
    address = _address(host)
    return not host or (address is not None and address.is_unspecified)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]"))
    return None


def _interfaces() -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses of every network interface of this machine."""
    import psutil

    families = (socket.AF_INET, socket.AF_INET6)
    entries = [entry for card in psutil.net_if_addrs().values() for entry in card if entry.family in families]
    # An IPv6 address may come with its interface: fe80::1%eth0.
    found = (_address(entry.address.partition("%")[0]) for entry in entries)
    return [address for address in found if address is not None]


def _http(host: str, port: int) -> str:
    bare = host.strip("[]")
    return f"http://[{bare}]:{port}" if ":" in bare else f"http://{bare}:{port}"


def _refused(host: str, port: int, error: OSError) -> Text:
    zh, en = holder(port)
    here, _ = addresses(host, port)
    return Text(
        zh=f"无法监听 {host}:{port}{zh}：{error.strerror}。如果 OneCard 已经在运行，直接打开 {here}；"
        f"否则换一个端口：--port {port + 1}。",
        en=f"Cannot listen on {host}:{port}{en}: {error.strerror}. If OneCard is running already, open "
        f"{here}; otherwise take another port: --port {port + 1}.",
    )


def holder(port: int) -> tuple[str, str]:
    """Who has the port, in both languages; empty where this user may not know."""
    import psutil

    try:
        pids = (c.pid for c in psutil.net_connections("inet") if c.laddr and c.laddr.port == port and c.pid)
        process = psutil.Process(next(pids))
        return f"（被进程 {process.pid} {process.name()} 占用）", f" (held by process {process.pid}, {process.name()})"
    except (psutil.Error, StopIteration):
        return "", ""
