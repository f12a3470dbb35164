"""Builds the release for x86_64, and unpacks the consumer's image where it can be run alone.

On AWS the consumer is linked with musl. Where Rust has no such target, and nothing can be downloaded, the C library of
this machine is linked in instead, which makes a program just as static.
"""

import os
import subprocess
import sys
import tarfile

from templates import ROOT, wiring

TARGET = "x86_64-unknown-linux-gnu"


def static_consumer(build):
    installed = subprocess.run(
        ["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True
    ).stdout.strip()
    musl = build.TARGETS["x86_64"][1]
    if os.path.isdir(f"{installed}/lib/rustlib/{musl}/lib"):
        return build.consumer("x86_64")
    command = [
        "cargo",
        "build",
        "--locked",
        "--release",
        "--target",
        TARGET,
        "--target-dir",
        "target/static",
        "-p",
        "kschat-consumer",
    ]
    variables = os.environ | {"RUSTFLAGS": "-C target-feature=+crt-static"}
    subprocess.run(command, cwd=ROOT, env=variables, check=True)
    built = ROOT / "target/static" / TARGET / "release"
    return build.image_folder({name: built / name for name in ("consumer", "probe")})


def main():
    wiring(ROOT / "infra/aws")
    from deploy import build, image

    build.functions("x86_64")
    folder = static_consumer(build)
    into = ROOT / "target/image-root"
    made = image.Image(folder, "x86_64")
    archive = ROOT / "target/image/layer.tar.gz"
    archive.write_bytes(made.layer)
    with tarfile.open(archive) as layer:
        layer.extractall(into)
    for name in ("consumer", "probe"):
        print(f"{name}: {(folder / name).stat().st_size / 1e6:.1f} MB")
    print(f"image: {len(made.layer) / 1e6:.1f} MB packed, {made.digest}")


if __name__ == "__main__":
    sys.exit(main())
