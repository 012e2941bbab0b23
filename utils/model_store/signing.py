"""Cards that are signed with MODELS_KEY: a model from anybody else is refused before it is read.

The signature is HMAC-SHA256 (RFC 2104, by Python's hmac) over the bytes of the card before it,
among them the digest of the model's content. It is the card's last field, so that a reader that
knows no signatures finds an ordinary card, and fields that this version does not know are covered.
"""

import hmac
import re
from typing import TYPE_CHECKING

from utils.model_store.card import Card, ModelError, decode_card, encode_card
from utils.settings import settings

if TYPE_CHECKING:
    from utils.model_store.registry import Registry

_CONTEXT = b"model card 1\n"  # what is signed is never anything else with the same key
_SIGNED = re.compile(rb'(.*),\n  "signature": "([0-9a-f]{64})"\n\}', re.DOTALL)


class Untrusted(ModelError):
    """A card that is not signed with MODELS_KEY."""


def seal(card: Card) -> bytes:
    """Return the card as JSON, signed if MODELS_KEY is set."""
    content = encode_card(card)
    if not settings.models_key.get_secret_value():
        return content
    body = content.removesuffix(b"\n}")
    return body + b',\n  "signature": "' + _signature(body).encode() + b'"\n}'


def unseal(content: bytes, name: str, verify: bool = True) -> Card:
    """Return the card in a file; Untrusted if MODELS_KEY is set, and it is not signed with it.

    name : of the file, for the error. verify : False for a card that somebody has decided to sign.
    ValueError if it is not a card.
    """
    if verify and settings.models_key.get_secret_value():
        found = _SIGNED.fullmatch(content)
        if found is None:
            raise Untrusted(f"{name} is not signed")
        if not hmac.compare_digest(_signature(found[1]), found[2].decode()):
            raise Untrusted(f"{name} was changed, or signed with another MODELS_KEY")
    return decode_card(content)


def refuse_untrusted(registry: "Registry", model_ids: list[int]) -> None:
    """Let nobody replace models that another MODELS_KEY has signed: SystemExit if all these are.

    Models that are missing or damaged do not count.
    """
    refused = []
    for model_id in model_ids if settings.models_key.get_secret_value() else ():
        try:
            registry.card(model_id)
            return
        except Untrusted as error:
            refused.append(error)
        except ModelError:
            continue
    if refused:
        fix = "set the MODELS_KEY that signed them, or python -m tools.models sign"
        raise SystemExit(f"No model can be used ({refused[0]}): {fix}")


def _signature(body: bytes) -> str:
    key = settings.models_key.get_secret_value().encode()
    return hmac.digest(key, _CONTEXT + body, "sha256").hex()
