"""Content Credentials (C2PA): a signed statement inside the picture that it was made by a trained algorithm, and by which software.

Signing and embedding are c2pa-python's (the Content Authenticity Initiative's own library). Without a certificate nothing is signed; the
unsigned XMP mark of :mod:`diffusion.provenance` is in every picture anyway.
"""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from core.errors import UserError
from core.settings import Settings
from diffusion.provenance import TRAINED_ALGORITHMIC_MEDIA, software

EC_ALGORITHMS = {256: "es256", 384: "es384", 521: "es512"}


class Credentials:
    """``chain`` is PEM, the signer's certificate first; ``key`` its private key, PKCS #8 PEM. ``timestamp_url``: a time-stamp authority."""

    def __init__(self, chain: bytes, key: bytes, timestamp_url: str = "") -> None:
        self._info = (algorithm_of(chain), chain, key, timestamp_url or None)

    def sign(self, picture: bytes, media_type: str) -> bytes:
        """The picture (``image/png`` or ``image/jpeg``) with its manifest embedded; pixels and XMP stay as they were.

        :class:`core.errors.UserError` if the certificate cannot sign: no picture goes out without the mark that the operator asked for.
        """
        from c2pa import Builder, C2paError, C2paSignerInfo, Signer

        signed = io.BytesIO()
        try:
            with Signer.from_info(C2paSignerInfo(*self._info)) as signer, Builder(json.dumps(manifest(media_type))) as builder:
                builder.sign(signer, media_type, io.BytesIO(picture), signed)
        except C2paError as error:
            raise UserError("provenance/certificate", "Pictures cannot be signed with this certificate", str(error)) from error
        return signed.getvalue()


def manifest(media_type: str) -> dict[str, Any]:
    """Says how the picture came to be, and nothing of the customer: no prompt, no account, no seed."""
    name, _, release = software().partition(" ")
    created = {
        "action": "c2pa.created",
        "digitalSourceType": TRAINED_ALGORITHMIC_MEDIA,
        "softwareAgent": {"name": name, "version": release},
    }
    return {
        "claim_generator_info": [{"name": name, "version": release}],
        "format": media_type,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }


def algorithm_of(chain: bytes) -> str:
    """C2PA's name of the signature that the first certificate's key makes."""
    key = x509.load_pem_x509_certificates(chain)[0].public_key()
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size in EC_ALGORITHMS:
        return EC_ALGORITHMS[key.curve.key_size]
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPublicKey):
        return "ps256"
    raise UserError(
        "provenance/certificate", "This certificate cannot sign pictures", "Use an EC (P-256, P-384, P-521), Ed25519 or RSA key."
    )


@cache
def _open(chain: Path, key: Path, timestamp_url: str) -> Credentials:
    try:
        return Credentials(chain.read_bytes(), key.read_bytes(), timestamp_url)
    except (OSError, ValueError) as error:
        detail = f"LIKENESS_C2PA_CERTIFICATE and LIKENESS_C2PA_KEY must name PEM files: {error}"
        raise UserError("provenance/certificate", "The certificate cannot be read", detail) from error


def credentials_of(settings: Settings) -> Credentials | None:
    """None where no certificate is set."""
    if not settings.c2pa_certificate or not settings.c2pa_key:
        return None
    return _open(settings.c2pa_certificate, settings.c2pa_key, settings.c2pa_timestamp_url)


def read_credentials(picture: bytes, media_type: str) -> dict[str, Any] | None:
    """The active manifest and ``validation`` («Valid», «Trusted» or «Invalid»); None if there is none."""
    from c2pa import Reader

    reader = Reader.try_create(media_type, io.BytesIO(picture))
    if reader is None:
        return None
    with reader:
        return {"validation": reader.get_validation_state(), **(reader.get_active_manifest() or {})}
