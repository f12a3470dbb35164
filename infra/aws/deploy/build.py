"""Builds what is deployed: three zips and the folder of the consumer's image."""

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import textwrap
import zipfile
from pathlib import Path

from deploy.cli import Failed, say, step

ROOT = Path(__file__).resolve().parents[3]
FUNCTIONS = ("connect", "disconnect", "send")
ZIPS = ROOT / "target" / "deploy"
IMAGE = ROOT / "target" / "image"

# What Rust calls the processors. The consumer's image holds nothing but the program, so it is linked with musl.
TARGETS = {
    "arm64": ("aarch64-unknown-linux-gnu", "aarch64-unknown-linux-musl"),
    "x86_64": ("x86_64-unknown-linux-gnu", "x86_64-unknown-linux-musl"),
}

# Kind of the segment that names a loader. Source: elf(5), PT_INTERP.
INTERPRETER = 3

# Zips are named after their content, so the same program has to give the same bytes.
EPOCH = (1980, 1, 1, 0, 0, 0)


def run(*command):
    say("$ " + " ".join(command))
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise Failed(f"{' '.join(command[:3])} has failed: see above")


def functions(architecture):
    """Builds the functions and returns their zips by name."""
    step("building the functions")
    target = TARGETS[architecture][0]
    run("cargo", "lambda", "build", "--locked", "--release", "--target", target, "--package", "kschat-functions")
    return given(ROOT / "target" / "lambda")


def given(folder):
    """Functions that somebody has built, in the layout of `cargo lambda build`."""
    return {name: zipped(name, (Path(folder) / name / "bootstrap").read_bytes()) for name in FUNCTIONS}


def broker_users():
    """The function that makes the broker's users, which the template of `data` contains, as a zip for Terraform."""
    template = (ROOT / "infra" / "aws" / "data.yaml").read_text()
    code = re.search(r"^        ZipFile: \|\n((?: {10}.*\n|\n)+)", template, re.M).group(1)
    return zipped("broker-users", textwrap.dedent(code).strip().encode() + b"\n", "index.py")


def write_index(zips):
    """Writes which zip is whose, for Terraform."""
    path = ZIPS / "zips.json"
    path.write_text(json.dumps({name: file.name for name, file in zips.items()}, indent=1) + "\n")
    say(f"for Terraform: {path}")


def zipped(name, content, entry="bootstrap"):
    """A zip with one file in it, named after its content."""
    ZIPS.mkdir(parents=True, exist_ok=True)
    path = ZIPS / f"{name}-{hashlib.sha256(content).hexdigest()[:20]}.zip"
    info = zipfile.ZipInfo(entry, EPOCH)
    info.external_attr = 0o755 << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, content, compresslevel=9)
    say(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
    return path


def consumer(architecture):
    """Builds the consumer and its probe without any shared library, and fills the image's folder."""
    step("building the consumer")
    target = TARGETS[architecture][1]
    # Cargo-lambda brings the cross linker; nothing about the program is Lambda's.
    run("cargo", "lambda", "build", "--locked", "--release", "--target", target, "--package", "kschat-consumer")
    built = ROOT / "target" / "lambda"
    return image_folder({name: built / name / "bootstrap" for name in ("consumer", "probe")})


def image_folder(programs):
    """Puts together what `consumer/Dockerfile` copies."""
    shutil.rmtree(IMAGE, ignore_errors=True)
    IMAGE.mkdir(parents=True)
    for name, program in programs.items():
        shutil.copy(program, IMAGE / name)
        os.chmod(IMAGE / name, 0o755)
        if not is_static(IMAGE / name):
            raise Failed(f"{program} needs shared libraries, and the image has none: build it for a musl target")
    shutil.copy(ROOT / "consumer" / "roots.pem", IMAGE)
    (IMAGE / "LICENSES.txt").write_text(licences("kschat-consumer"))
    return IMAGE


def is_static(program):
    """Whether an ELF program names no interpreter, that is, needs no loader."""
    header = program.read_bytes()
    if header[:5] != b"\x7fELF\x02":
        raise Failed(f"{program} is no 64-bit Linux program")
    start, size, count = struct.unpack_from("<Q", header, 32)[0], *struct.unpack_from("<HH", header, 54)
    kinds = (struct.unpack_from("<I", header, start + index * size)[0] for index in range(count))
    return INTERPRETER not in kinds


def licences(package):
    """The crates that a package is built from, with their licences, a line each."""
    tree = ["cargo", "tree", "--locked", "-p", package, "-e", "normal", "--prefix", "none", "--format", "{p} | {l}"]
    done = subprocess.run(tree, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"cargo tree has failed: {done.stderr.strip()}")
    rows = (line.removesuffix(" (*)").split(" | ") for line in done.stdout.splitlines() if line)
    # A crate of ours is followed by its folder.
    lines = {f"{crate.split(' (')[0]} | {licence}" for crate, licence in rows}
    return f"What {package} is built from, with licences.\n\n" + "\n".join(sorted(lines)) + "\n"
