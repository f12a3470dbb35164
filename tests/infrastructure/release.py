"""Builds the release for a kind of processor, and puts it where a test runs it.

    release.py x86_64|arm64

Functions and consumer are those that are deployed. ARM programs are run by QEMU, on a machine that is none.

On AWS the consumer is linked with musl. Where Rust has no such target, and nothing can be downloaded, the C library of
this machine is linked in instead, which makes a program just as static.
"""

import os
import platform
import shutil
import subprocess
import sys
import tarfile

from templates import ROOT, wiring

# What links C libraries in for a processor that is not ours. Debian's packages of these names bring it.
LINKERS = {"x86_64": "x86_64-linux-gnu-gcc", "arm64": "aarch64-linux-gnu-gcc"}
EMULATOR, LIBRARIES = "qemu-aarch64-static", "/usr/aarch64-linux-gnu"

# What the test runs: functions in the layout of `cargo lambda build`, and the consumer's image, unpacked.
FUNCTIONS, IMAGE = ROOT / "target/release-functions", ROOT / "target/image-root"


def static_consumer(build, architecture):
    sysroot = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True).stdout.strip()
    target, musl = build.TARGETS[architecture]
    if os.path.isdir(f"{sysroot}/lib/rustlib/{musl}/lib"):
        return build.consumer(architecture)
    program = ["-p", "kschat-consumer", "--target", target, "--target-dir", "target/static"]
    under = target.replace("-", "_")
    variables = os.environ | {
        "RUSTFLAGS": "-C target-feature=+crt-static",
        f"CC_{under}": LINKERS[architecture],
        f"CARGO_TARGET_{under.upper()}_LINKER": LINKERS[architecture],
    }
    subprocess.run(["cargo", "build", "--locked", "--release", *program], cwd=ROOT, env=variables, check=True)
    built = ROOT / "target/static" / target / "release"
    return build.image_folder({name: built / name for name in ("consumer", "probe")})


def put_functions(zips, is_foreign):
    """The functions that were built, or what starts them in the emulator of their processor."""
    shutil.rmtree(FUNCTIONS, ignore_errors=True)
    for name in zips:
        built, folder = ROOT / "target/lambda" / name / "bootstrap", FUNCTIONS / name
        folder.mkdir(parents=True)
        if is_foreign:
            (folder / "bootstrap").write_text(f"#!/bin/sh\nexec {EMULATOR} -L {LIBRARIES} {built}\n")
        else:
            shutil.copy(built, folder)


def put_image(folder, architecture, is_foreign):
    from deploy import image

    made = image.Image(folder, architecture)
    archive = ROOT / "target/image/layer.tar.gz"
    archive.write_bytes(made.layer)
    shutil.rmtree(IMAGE, ignore_errors=True)
    with tarfile.open(archive) as layer:
        layer.extractall(IMAGE)
    if is_foreign:
        shutil.copy(shutil.which(EMULATOR), IMAGE / "emulator")
    return made


def main():
    (architecture,) = sys.argv[1:]
    wiring(ROOT / "infra/aws")
    from deploy import build

    is_foreign = {"arm64": "aarch64"}.get(architecture, architecture) != platform.machine()
    zips = build.functions(architecture)
    put_functions(zips, is_foreign)
    folder = static_consumer(build, architecture)
    made = put_image(folder, architecture, is_foreign)
    sizes = {name: path.stat().st_size for name, path in zips.items()}
    sizes |= {name: (folder / name).stat().st_size for name in ("consumer", "probe")} | {"image": len(made.layer)}
    print(f"{architecture}: " + ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items()))


if __name__ == "__main__":
    sys.exit(main())
