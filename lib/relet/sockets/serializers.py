"""Between Python values and the bytes of a message. Both formats carry plain data only: nothing from a peer is run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import msgspec


class BaseSerializer(ABC):
    """What `SocketManager` asks of a serializer: derive from it to send in a format of your own."""

    @abstractmethod
    def pack(self, data: Any) -> bytes:
        """The bytes of a value. Raises `TypeError` or `ValueError` for one that the format does not have."""

    @abstractmethod
    def unpack(self, packed: bytes) -> Any:
        """The value of bytes that a peer sent. Whatever it raises becomes an `UnreadableMessage`."""


class JSON(BaseSerializer):
    """JSON (RFC 8259): any peer reads it. It has no bytes: they arrive as base64 text."""

    def pack(self, data: Any) -> bytes:
        """As UTF-8. Raises `TypeError` for what is no JSON, dataclasses, dates, msgspec Structs and the like aside."""
        return msgspec.json.encode(data)

    def unpack(self, packed: bytes) -> Any:
        """None, bool, int, float, str, list or dict. Raises `ValueError`."""
        return msgspec.json.decode(packed)


class MessagePack(BaseSerializer):
    """MessagePack (msgpack.org): shorter, faster, and with bytes."""

    def pack(self, data: Any) -> bytes:
        """Raises `TypeError` for what it does not have, `OverflowError` for integers of more than 64 bits."""
        return msgspec.msgpack.encode(data)

    def unpack(self, packed: bytes) -> Any:
        """As of `JSON`, and bytes, and dates as `datetime`. Raises `ValueError`."""
        return msgspec.msgpack.decode(packed)
