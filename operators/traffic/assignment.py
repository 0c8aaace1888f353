"""Which units a canary gets. The edge decides it; this is the same arithmetic, to explain a request afterwards. Pure."""

from __future__ import annotations

from operators.core.traffic import ALL_BP, Route

_PRIMES = (2654435761, 2246822519, 3266489917, 668265263, 374761393)
_MASK = 0xFFFFFFFF


def bucket(model: str, unit: str) -> int:
    """Return the bucket of a unit, 0 to 9999: HAProxy's ``xxh32(0),mod(10000)`` of ``model/unit``."""
    return xxh32(f"{model}/{unit}".encode()) % ALL_BP


def in_canary(route: Route, place: int) -> bool:
    """Say whether a bucket belongs to the canary, while the route's lease holds.

    :param place: the bucket
    """
    from_top = ALL_BP - 1 - route.holdout_bp - place
    if from_top < 0:
        return False  # held out
    return (from_top if route.from_top else place) < route.weight_bp


def xxh32(data: bytes) -> int:
    """Return xxHash32 with the seed 0 (Y. Collet, xxHash fast digest algorithm, specification 0.1.1)."""
    one, two, three, four, five = _PRIMES
    lanes, at, size = [(one + two) & _MASK, two, 0, -one & _MASK], 0, len(data)
    while at + 16 <= size:
        for index in range(4):
            word = int.from_bytes(data[at + 4 * index : at + 4 * index + 4], "little")
            lanes[index] = _turned(lanes[index] + word * two, 13) * one & _MASK
        at += 16
    whole = sum(_turned(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) if size >= 16 else five
    state = (whole + size) & _MASK
    while at + 4 <= size:
        state = _turned(state + int.from_bytes(data[at : at + 4], "little") * three, 17) * four & _MASK
        at += 4
    for byte in data[at:]:
        state = _turned(state + byte * five, 11) * one & _MASK
    state = (state ^ state >> 15) * two & _MASK
    state = (state ^ state >> 13) * three & _MASK
    return state ^ state >> 16


def _turned(value: int, by: int) -> int:
    value &= _MASK
    return (value << by | value >> (32 - by)) & _MASK
