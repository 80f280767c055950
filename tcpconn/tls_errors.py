"""What OpenSSL's errors mean for who set the two sides up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcpconn.errors import CertificateError, TlsError

if TYPE_CHECKING:  # quick to load, for who uses no TLS
    import ssl

EXPLANATIONS = {
    "CERTIFICATE_VERIFY_FAILED": "the peer's certificate is not trusted",
    "HTTP_REQUEST": "the peer speaks HTTP",
    "NO_SHARED_CIPHER": "no cipher suits both sides; has the server's context a certificate?",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer has shown no certificate, which is wanted here",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer does not trust this side's certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the peer says that this side's certificate has expired",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the peer wants a certificate of this side's",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer takes no version of TLS that this side offers",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not trust who signed this side's certificate",
    "TLSV1_UNRECOGNIZED_NAME": "the peer does not know the server name that it was asked for",
    "UNKNOWN_PROTOCOL": "the peer does not speak TLS",
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS, or no version that this side takes",
}

ABOUT_CERTIFICATES = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")
"""What is in the reasons of those errors that will be the same the next time."""


def tls_error(error: ssl.SSLError) -> TlsError:
    """An error of OpenSSL's as one of ours, in words."""
    reason = error.reason or ""
    words = EXPLANATIONS.get(reason) or reason.replace("_", " ").lower() or str(error)
    if detail := getattr(error, "verify_message", ""):
        words = f"{words}: {detail.rstrip('.')}"
    if any(each in reason for each in ABOUT_CERTIFICATES):
        return CertificateError(words)
    return TlsError(words)
