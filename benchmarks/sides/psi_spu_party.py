"""One party of SecretFlow's set intersection, package `spu`: `python psi_spu_party.py SETTINGS`, a JSON file.

SETTINGS has `rank` (0 learns the result), `addresses` of both, `protocol`, `input` and `output` (CSV files with a
column `id`), and `told`, where this party writes what it found when it has. Its process stays until the other has
written too, since what it has sent may still be on its way.

Source: the package's own `spu.psi` interface, version 0.9.5; buckets and batches have its default sizes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import spu.libspu as libspu
import spu.psi as psi

WAIT_MS = 3_600_000
BUCKET = 1 << 20
BATCH = 4096


def connect(rank: int, addresses: list[str]) -> Any:
    """The connection to the other party."""
    link = libspu.link.Desc()
    link.recv_timeout_ms = link.http_timeout_ms = WAIT_MS
    for number, address in enumerate(addresses):
        link.add_party(f"party{number}", address)
    return libspu.link.create_brpc(link, rank)


def plan(settings: dict[str, Any]) -> Any:
    """What `psi_execute` is asked: rows to the first party only, in no order, keys known to be distinct."""
    return psi.PsiExecuteConfig(
        protocol_conf=psi.PsiProtocolConfig(
            protocol=getattr(psi.PsiProtocol, f"PROTOCOL_{settings['protocol']}"),
            receiver_rank=0,
            bucket_size=BUCKET,
            broadcast_result=False,
            ecdh_params=psi.EcdhParams(curve=psi.EllipticCurveType.CURVE_25519, batch_size=BATCH),
            rr22_params=psi.Rr22Rarams(low_comm_mode=False),
        ),
        input_params=psi.InputParams(path=settings["input"], selected_keys=["id"], keys_unique=True),
        output_params=psi.OutputParams(path=settings["output"], disable_alignment=True),
    )


def main() -> None:
    """Take part, and tell."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    connection = connect(settings["rank"], settings["addresses"])
    connection.barrier()
    began, cpu = time.monotonic(), sum(os.times()[:4])
    report = psi.psi_execute(plan(settings), connection)
    found = {
        "seconds": time.monotonic() - began,
        "cpu_seconds": sum(os.times()[:4]) - cpu,
        "items": report.original_count,
        "intersection": report.intersection_count,
    }
    told = [Path(one) for one in settings["told"]]
    partial = told[settings["rank"]].with_suffix(".partial")
    partial.write_text(json.dumps(found))
    partial.replace(told[settings["rank"]])
    until = time.monotonic() + 60
    while not told[1 - settings["rank"]].exists() and time.monotonic() < until:
        time.sleep(0.005)
    # The interpreter's own end would wait for threads of the connection that have nothing left to do.
    os._exit(0)


if __name__ == "__main__":
    main()
