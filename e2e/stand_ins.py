"""What only a cloud has, made on this machine: certificates of a private CA, object storage, and a load balancer.

The object storage is moto's S3 with its token service, and an emulator of Google's; both listen where pods reach the
machine, on the gateway of kind's network.
"""

import ipaddress
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from gcp_storage_emulator.server import create_server

from tooling.deploy import cluster
from tooling.deploy.kube import Kube
from tooling.service import free_port

BUCKET = "example-task-api-backups"
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key, as PEM."""

    certificate: str
    key: str


class Authority:
    """A private certificate authority that lives as long as a proof."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "private CA of the proofs")])
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        self._certificate = self._builder(self._name, self._key).add_extension(constraints, critical=True)
        self.certificate = self._pem(self._certificate.sign(self._key, hashes.SHA256()))

    def issue(self, name: str) -> Certificate:
        """Return a certificate for a host's name or address."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            host: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            host = x509.DNSName(name)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        alternatives = x509.SubjectAlternativeName([host])
        signed = (
            self._builder(subject, key).add_extension(alternatives, critical=False).sign(self._key, hashes.SHA256())
        )
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return Certificate(self._pem(signed), key.private_bytes(*form).decode())

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key.public_key())
        return made.serial_number(x509.random_serial_number()).not_valid_before(now - DAY).not_valid_after(now + DAY)

    @staticmethod
    def _pem(certificate: x509.Certificate) -> str:
        return certificate.public_bytes(serialization.Encoding.PEM).decode()


def gateway() -> str:
    """Return the address by which pods reach this machine."""
    networks = json.loads(cluster.run("docker", "network", "inspect", "kind"))[0]["IPAM"]["Config"]
    return next(str(one["Gateway"]) for one in networks if ":" not in one.get("Gateway", ":"))


@contextmanager
def s3(host: str, authority: Authority) -> Iterator[str]:
    """Serve S3 and the token service of AWS with TLS, an empty bucket in it; yield the address."""
    port, issued = free_port(), authority.issue(host)
    with tempfile.TemporaryDirectory() as name:
        files = {"tls.crt": issued.certificate, "tls.key": issued.key, "ca.crt": authority.certificate}
        for file, content in files.items():
            Path(name, file).write_text(content)
        command = [sys.executable, "-m", "moto.server", f"-H{host}", f"-p{port}"]
        command += [f"-c{name}/tls.crt", f"-k{name}/tls.key"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                transport = httpx.HTTPTransport(verify=f"{name}/ca.crt", retries=20)
                with httpx.Client(transport=transport, timeout=120) as client:
                    client.put(f"https://{host}:{port}/{BUCKET}").raise_for_status()
                yield f"https://{host}:{port}"
            finally:
                server.terminate()


@contextmanager
def gcs(host: str) -> Iterator[str]:
    """Serve Google's object storage, an empty bucket in it; yield the address."""
    port = free_port()
    server = create_server(host, port, in_memory=True, default_bucket=BUCKET)
    server.start()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def load_balancer(kube: Kube, service: str) -> Iterator[str]:
    """Forward a port of this machine to a Service while the block runs, also before it is there; yield its URL."""
    port, over = free_port(), threading.Event()
    command = kube.command("port-forward", "--address=127.0.0.1", f"service/{service}", f"{port}:80")
    running: list[subprocess.Popen[bytes]] = []

    def forward() -> None:
        while not over.is_set():
            running[:] = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)]
            running[0].wait()
            over.wait(1)

    thread = threading.Thread(target=forward)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        over.set()
        for process in running:
            process.terminate()
        thread.join()
