"""Pushes an image to a registry twice, pulls it again, and compares. With a second argument, a folder of programs as
`kschat-aws` fills it, that image is unpacked there; without one the programs are made up."""

import gzip
import hashlib
import io
import json
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

sys.dont_write_bytecode = True

from templates import ROOT, wiring

REPOSITORY = "kschat-test/consumer"


def get(url, accept="*/*"):
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=60) as answer:
        return answer.read()


def main(url, folder=None, into=None):
    wiring(ROOT / "infra/aws")
    from deploy.image import FILES, MANIFEST, USER, Image, Registry, digest

    with tempfile.TemporaryDirectory() as made_up:
        if folder is None:
            folder = Path(made_up)
            for name in FILES:
                (folder / name).write_bytes(hashlib.sha256(name.encode()).digest() * 1000)
        folder = Path(folder)
        image, again = (Image(folder, "arm64") for _ in range(2))
        assert image.digest == again.digest, "the same content has another digest"
        for _ in range(2):
            Registry(url, REPOSITORY).push(image, "test")
        manifest = get(f"{url}/v2/{REPOSITORY}/manifests/test", MANIFEST)
        assert digest(manifest) == image.digest, "the manifest is another one"
        manifest = json.loads(manifest)
        config, layer = (
            get(f"{url}/v2/{REPOSITORY}/blobs/{part['digest']}") for part in (manifest["config"], manifest["layers"][0])
        )
        config = json.loads(config)
        assert config["config"] == {"User": USER, "Entrypoint": ["/consumer"]}, config
        assert config["rootfs"]["diff_ids"] == [digest(gzip.decompress(layer))], "the layer is another one"
        with tarfile.open(fileobj=io.BytesIO(layer), mode="r:gz") as archive:
            entries = {entry.name: entry for entry in archive}
            assert entries.keys() == {path for path, _ in FILES.values()}, sorted(entries)
            for name, (path, mode) in FILES.items():
                assert archive.extractfile(entries[path]).read() == (folder / name).read_bytes(), path
                assert entries[path].mode == mode and entries[path].uid == 0, path
            if into:
                archive.extractall(into, filter="tar")
    print("the image came back whole")


if __name__ == "__main__":
    main(*sys.argv[1:])
