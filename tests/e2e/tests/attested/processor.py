"""Stands in for a processor with AMD SEV-SNP: has a key endorsed by an authority of the tests' own,
and signs a report in the folder that it is started in, as the program of `[attestation]` does.

    processor.py AUTHORITY [debug] [elsewhere]

With `debug` the machine can be debugged. With `elsewhere` the report is for another request than the one
in the folder, as one is that another node was shown, or that was made before.
"""

import pathlib
import shutil
import subprocess
import sys

authority = pathlib.Path(sys.argv[1])
policy = (1 << 17) | ((1 << 19) if "debug" in sys.argv[2:] else 0)

report = bytearray(0x4A0)


def put(place, value, size):
    report[place : place + size] = value.to_bytes(size, "little")


put(0x00, 2, 4)
put(0x08, policy, 8)
put(0x34, 1, 4)
request = pathlib.Path("request").read_bytes()
report[0x50:0x90] = request[::-1] if "elsewhere" in sys.argv[2:] else request
report[0x90:0xC0] = bytes([0xAB] * 48)
# The versions that the authority's certificate names.
report[0x180:0x188] = bytes([3, 0, 0, 0, 0, 0, 8, 115])
report[0x1A0:0x1E0] = bytes(range(64))

signed = subprocess.run(
    ["openssl", "dgst", "-sha384", "-sign", str(authority / "vcek.key")],
    input=bytes(report[:0x2A0]),
    stdout=subprocess.PIPE,
    check=True,
).stdout
# Two integers in DER, below 128 bytes each.
at = 2
for place in (0x2A0, 0x2A0 + 72):
    assert signed[at] == 2
    length = signed[at + 1]
    put(place, int.from_bytes(signed[at + 2 : at + 2 + length], "big"), 72)
    at += 2 + length

pathlib.Path("report").write_bytes(report)
for name in ("vcek.der", "ask.der", "ark.der"):
    shutil.copy(authority / name, name)
