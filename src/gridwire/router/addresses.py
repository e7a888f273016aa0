"""Where a webhook may go: nowhere into our own machine or network, unless whoever runs the hub allows it.

A receiver's name is resolved once, every address it has is looked at, and the connection goes to an address that was
looked at: a name that means something else a moment later gains nothing. What cannot be resolved is refused.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gridwire.core.errors import GridwireError

RESOLVE_S: Final = 5.0
ADDRESSES_MAX: Final = 16
"""Of one name; a name with more is refused rather than half looked at."""

_SPECIAL: Final = tuple(
    map(ipaddress.ip_network, ("0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15",
                               "2001:db8::/32", "3fff::/20", "168.63.129.16/32"))
)  # fmt: skip
"""IANA's special-purpose networks that not every Python knows as such. The last one is public by its number only: a
cloud's own services answer there, to the machines in it."""

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.ip_network("::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Addresses of a host. Raises OSError."""


class Refused(GridwireError):
    """An address that no webhook goes to."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What is allowed besides the public internet: networks, and names of hosts wherever they are."""

    networks: tuple[Network, ...] = ()
    names: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Allowed:
        """From the setting, which was checked: what is no network is a name."""
        networks: list[Network] = []
        names: set[str] = set()
        for part in filter(None, (each.strip().lower().rstrip(".") for each in text.split(","))):
            try:
                networks.append(ipaddress.ip_network(part))
            except ValueError:
                names.add(part)
        return cls(tuple(networks), frozenset(names))

    def names_host(self, host: str) -> bool:
        """Whether a host is allowed by its name."""
        return host.lower().rstrip(".") in self.names

    def covers(self, address: Address) -> bool:
        """Whether an address is in one of the networks."""
        return any(address in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class Found:
    """Addresses to connect to. `inside`: whether all are allowed by the setting, not by being public."""

    addresses: tuple[str, ...]
    inside: bool


async def system_resolve(host: str, port: int) -> Sequence[str]:
    """What the system's resolver says."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


async def find(host: str, port: int, allowed: Allowed, resolve: Resolve) -> Found:
    """Addresses of a host, all of them allowed. Raises Refused."""
    try:
        async with asyncio.timeout(RESOLVE_S):
            told = await resolve(host, port)
    except (OSError, UnicodeError, TimeoutError) as error:
        raise Refused(f"{host[:200]} cannot be resolved: {str(error) or 'no answer'}") from None
    names = list(dict.fromkeys(told))
    if not names or len(names) > ADDRESSES_MAX:
        raise Refused(f"{host[:200]} has {len(names)} addresses: 1 to {ADDRESSES_MAX} can be checked")
    if allowed.names_host(host):
        return Found(tuple(names), True)
    addresses = [_parsed(name) for name in names]
    for address in addresses:
        _check(host, address, allowed)
    return Found(tuple(str(address) for address in addresses), all(map(allowed.covers, map(_plain, addresses))))


def _parsed(text: str) -> Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise Refused(f"{text[:80]} is no address") from None


def _check(host: str, address: Address, allowed: Allowed) -> None:
    """Raises Refused: neither public nor allowed."""
    if allowed.covers(_plain(address)):
        return
    if not all(map(is_public, [address, *_inner(address)])):
        raise Refused(
            f"{host[:200]} is {address}, which is not on the public internet: "
            "the hub's setting webhook_allow names networks and hosts that may be reached all the same"
        )


def is_public(address: Address) -> bool:
    """Whether anybody on the internet may have the address."""
    special = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback
    local = address.is_link_local or address.is_private or getattr(address, "is_site_local", False)
    return address.is_global and not special and not local and not any(address in each for each in _SPECIAL)


def _inner(address: Address) -> Iterable[Address]:
    """Addresses that an IPv6 address stands for: mapped, compatible, 6to4, Teredo, NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if address in _NAT64 or address in _COMPATIBLE:
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def _plain(address: Address) -> Address:
    """An IPv4 address written as IPv6, as itself: networks of the setting mean both."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped
