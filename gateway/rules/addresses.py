"""Addresses of clients: which of them count as one where something is limited for each address."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

__all__ = ["block_of"]

IPV6_BITS = 64  # of an address that its owner cannot choose: the rest are other addresses of the same


def block_of(address: str) -> str:
    """The addresses that count as one: of IPv6 the network /64, of IPv4 the address itself, however it is written."""
    try:
        there = ip_address(address.partition("%")[0])
    except ValueError:
        return address or "-"
    if not isinstance(there, IPv6Address):
        return str(there)
    if there.ipv4_mapped is not None:
        return str(there.ipv4_mapped)
    return f"{IPv6Address(int(there) >> (128 - IPV6_BITS) << (128 - IPV6_BITS))}/{IPV6_BITS}"
