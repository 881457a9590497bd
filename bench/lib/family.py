# SPDX-License-Identifier: MIT
"""A family: many processes, each started by exec, that restore the same image: they advise their memory and read a
file into it. Merging is on all the time. One second after the last one is ready: how much of their memory is shared?
By the counters (for samepage, by the page tables), and by what the kernel charges, against the same processes without
any merging."""

import os
import subprocess
import time

from . import machine
from .merging import look, poll_answer, started
from .programs import quit_all
from .settings import KSM

WAIT_SECONDS = 1.0


def image(context, mib):
    path = os.path.join(context.directory, f"image-{mib}")
    if not os.path.exists(path):
        subprocess.run([context.tool("workload"), "write", str(mib), "0", "0", path], check=True)
    return path


def store_pages(context, group):
    if group.side.name == "samepage":
        return look(context, group.side)["counters"]["pages_shared"]
    return int(machine.read(KSM + "pages_shared"))


def one(context, w, name):
    begin = time.monotonic()
    with started(context, name, w, context.family_mib, image=image(context, context.family_mib)) as (group, programs):
        ready = time.monotonic() - begin
        time.sleep(WAIT_SECONDS)
        r = {"ready_seconds": ready, "charged_bytes": machine.charged_bytes(group.pids, group.side.daemon),
             "background_cpus": group.background, "managed_pages": group.pages}
        if name != "nobody":
            saved = poll_answer(group.poll(0, 1, programs))["saved_pages"]
            r["shared_share"] = (saved + store_pages(context, group)) / group.pages
        r["own_cpu_seconds"] = machine.process_cpu_seconds(group.pids) - group.side_cpu_before
        group.check()
        quit_all(group.workers)
    return r


def round_of(context, w, names, _number):
    results = {name: one(context, w, name) for name in names}
    base = results.get("nobody", {}).get("charged_bytes")
    for name, r in results.items():
        if base and name != "nobody":
            r["saved_bytes"] = base - r["charged_bytes"]
            r["saved_of_unmanaged"] = r["saved_bytes"] / base
    return results
