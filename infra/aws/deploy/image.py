"""Makes the consumer's image and pushes it to a registry, without Docker.

An image is a few JSON documents and tar files. One of a single static program needs no engine to be made, and its
digest depends on nothing but its content.

Source: OCI image format 1.0, OCI distribution 1.0.
"""

import gzip
import hashlib
import io
import json
import tarfile
import urllib.error
import urllib.request
from urllib.parse import urljoin

from deploy.cli import Failed, say, step

USER = "65532:65532"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

# Where each file of the folder goes: the same as in consumer/Dockerfile.
FILES = {
    "consumer": ("consumer", 0o755),
    "probe": ("probe", 0o755),
    "roots.pem": ("etc/ssl/certs/ca-certificates.crt", 0o644),
    "LICENSES.txt": ("LICENSES.txt", 0o644),
}


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def descriptor(kind, content):
    return {"mediaType": kind, "digest": digest(content), "size": len(content)}


class Image:
    """An image of one layer."""

    def __init__(self, folder, architecture):
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for name, (path, mode) in FILES.items():
                content = (folder / name).read_bytes()
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(content), mode
                archive.addfile(entry, io.BytesIO(content))
        self.layer = gzip.compress(tar.getvalue(), compresslevel=9, mtime=0)
        config = {
            "architecture": {"arm64": "arm64", "x86_64": "amd64"}[architecture],
            "os": "linux",
            "config": {"User": USER, "Entrypoint": ["/consumer"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(tar.getvalue())]},
        }
        self.config = json.dumps(config, sort_keys=True).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, self.config),
            "layers": [descriptor(LAYER, self.layer)],
        }
        self.manifest = json.dumps(manifest, sort_keys=True).encode()
        self.digest = digest(self.manifest)


class Registry:
    """A repository of a registry, by HTTP."""

    def __init__(self, url, repository, token=None):
        self.base = f"{url}/v2/{repository}/"
        self.headers = {"Authorization": f"Basic {token}"} if token else {}

    def _call(self, method, url, body=None, kind=None):
        # Without Accept a registry tells nobody of an OCI manifest that it has.
        headers = self.headers | {"Accept": MANIFEST} | ({"Content-Type": kind} if kind else {})
        request = urllib.request.Request(urljoin(self.base, url), data=body, method=method, headers=headers)
        return urllib.request.urlopen(request, timeout=300)

    def has(self, kind, name):
        try:
            with self._call("HEAD", f"{kind}/{name}"):
                return True
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return False
            raise

    def _upload(self, content):
        if self.has("blobs", digest(content)):
            return
        with self._call("POST", "blobs/uploads/", b"") as answer:
            place = urljoin(self.base, answer.headers["Location"])
        place += ("&" if "?" in place else "?") + "digest=" + digest(content)
        self._call("PUT", place, content, "application/octet-stream").close()

    def push(self, image, tag):
        """Uploads what is not there yet; the tag comes last, so that it never names half an image. A repository whose
        tags can't change refuses even the same image a second time.

        Source: https://docs.aws.amazon.com/AmazonECR/latest/userguide/image-tag-mutability.html
        """
        try:
            self._upload(image.layer)
            self._upload(image.config)
            if not self.has("manifests", image.digest):
                self._call("PUT", f"manifests/{tag}", image.manifest, MANIFEST).close()
        except urllib.error.HTTPError as error:
            raise Failed(
                f"the registry refuses the image: {error.code} {error.read(300).decode(errors='replace')}"
            ) from error
        except OSError as error:
            raise Failed(f"the registry can't be reached: {error}") from error


def push_to_ecr(aws, uri, folder, architecture):
    """Pushes the image and returns its URI with the digest."""
    step("pushing the consumer's image")
    image = Image(folder, architecture)
    host, repository = uri.split("/", 1)
    answer = aws("ecr", "get-authorization-token")
    token = answer["authorizationData"][0]["authorizationToken"]
    Registry(f"https://{host}", repository, token).push(image, image.digest.removeprefix("sha256:")[:20])
    say(f"{uri}@{image.digest}: {len(image.layer) / 1e6:.1f} MB")
    return f"{uri}@{image.digest}"
