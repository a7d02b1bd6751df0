"""Self-signed certificates of what runs in a cluster: of two programs that know each other, and of an authority."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

YEARS = timedelta(days=3650)


def certificate(name: str) -> dict[str, str]:
    """Return a self-signed certificate for `name` with its key, PEM as in a Secret of the type kubernetes.io/tls.

    Operator and plugin trust exactly each other's: no authority is involved, so that it may be valid for long.
    """
    uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    signed, key = _signed(name, (x509.SubjectAlternativeName([x509.DNSName(name)]), False), (uses, False))
    return {"tls.crt": signed, "tls.key": _pem(key, serialization.PrivateFormat.PKCS8)}


def authority(name: str) -> dict[str, str]:
    """Return a certificate authority with its key, PEM as CloudNativePG reads it (SEC 1) and signs with it."""
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    signing = dict.fromkeys(("key_cert_sign", "crl_sign"), True) | dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    signed, key = _signed(name, (constraints, True), (x509.KeyUsage(**signing), True))
    return {"ca.crt": signed, "ca.key": _pem(key, serialization.PrivateFormat.TraditionalOpenSSL)}


def _signed(name: str, *extensions: tuple[x509.ExtensionType, bool]) -> tuple[str, ec.EllipticCurvePrivateKey]:
    """Return a certificate for `name`, PEM, with these extensions, critical or not, and the key that signed it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]), datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + YEARS)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode(), key


def _pem(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> str:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
