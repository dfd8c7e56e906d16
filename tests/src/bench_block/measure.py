"""One side of a guest with a disk in a lab machine, and what its fio says of the disk.

measure.py SUBJECT secondary PORT ARGV…                   is there for its primary until it is told to end (SIGTERM)
measure.py SUBJECT primary ADDRESS:PORT DELAY JOBS ARGV…  boots the guest, protects it, has it run its jobs

SUBJECT is one of SUBJECTS below; those that are alone are not protected, and take any address. DELAY is the time
between checkpoints in milliseconds. JOBS is JSON: [{"name": …, "words": …, "seconds": S}, …], the words being fio's.
The guest waits for a line on its console for each job, so that none begins before the guest is protected, and
answers with `begin NAME UPTIME`, `end NAME UPTIME`, and `fio NAME MD5 {…}`; an answer that a console garbled is asked for again. One line of JSON comes out when all are done; the guest stays until SIGTERM, and does
nothing, so that its disks can be compared.
"""
import hashlib
import json
import os
import re
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "bench_checkpoint"))
from vmms import PATIENCE, Ours, Qemu

# The port of QEMU's NBD server is so much above that of its checkpoints.
NBD = 1


class OursAlone(Ours):
    def protect(self, peer):
        return 0

    def mark(self):
        return 0

    def set_delay(self, ms):
        pass


class QemuAlone(Qemu):
    def protect(self, peer):
        return 0

    def set_delay(self, ms):
        pass


class QemuReplicated(Qemu):
    """QEMU's COLO with its replication driver. The primary's quorum has the local disk, and gets a second child that
    sends writes to the secondary's NBD server, into the disk below the secondary's own overlays."""

    def listen(self, port):
        self.start()
        address = {"type": "inet", "data": {"host": "0.0.0.0", "port": str(int(port) + NBD)}}
        self.qmp.ask("nbd-server-start", addr=address)
        self.qmp.ask("nbd-server-add", device="parent0", writable=True)
        self.enable()
        self.qmp.ask("migrate-incoming", uri=f"tcp:0.0.0.0:{port}")

    def protect(self, peer):
        host, _, port = peer.rpartition(":")
        node = f"driver=replication,mode=primary,file.driver=nbd,file.host={host},file.port={int(port) + NBD}"
        words = f"drive_add -n buddy {node},file.export=parent0,node-name=replication0"
        said = self.qmp.ask("human-monitor-command", **{"command-line": words})
        if said.strip():
            sys.exit(f"drive_add: {said}")
        self.qmp.ask("x-blockdev-change", parent="data", node="replication0")
        return super().protect(peer)


SUBJECTS = {"alone": OursAlone, "pair": Ours, "periodic": Ours, "qemu": QemuAlone, "qemu-colo": QemuReplicated}


def until_told():
    """Something that is set by SIGTERM."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    return told


def secondary(vmm, port):
    told = until_told()
    vmm.listen(port)
    print("waits", flush=True)
    while not told.wait(0.2) and not vmm.has_ended():
        pass
    print(json.dumps({"ended": vmm.has_ended(), "said": vmm.said()[-1000:]}))


def is_whole(md5, said):
    return hashlib.md5(said.encode()).hexdigest() == md5


def run(vmm, job):
    """What fio says of a job, how many checkpoints there were meanwhile, and how many seconds went by for the guest in a
    second of the host's."""
    before, asked, checkpoints, times = vmm.mark(), 0, None, {}
    vmm.type(f"{job['name']} {job['words']}")
    answer = re.compile(r"^fio " + job["name"] + r" ([0-9a-f]{32}) (.*?)\r?\n", re.MULTILINE)
    deadline = time.monotonic() + PATIENCE + 10 * job["seconds"]
    while True:
        said = vmm.said()
        for word in "begin", "end":
            at = re.search(rf"^{word} {job['name']} ([0-9.]+)\r?\n", said, re.MULTILINE)
            if at and word not in times:
                times[word] = (float(at[1]), time.monotonic())
        if checkpoints is None and "end" in times:
            checkpoints = vmm.count_since(before)
        answers = answer.findall(said)
        if whole := [text for md5, text in answers if is_whole(md5, text)]:
            break
        if len(answers) > asked:
            asked = len(answers)
            vmm.type("again")
        if time.monotonic() > deadline or vmm.has_ended():
            sys.exit(f"no answer to {job['name']}: {said[-3000:]}")
        time.sleep(0.01)
    if len(times) < 2:
        # A console garbled that; the job is done once more, as another.
        return run(vmm, job | {"name": job["name"] + "-again"}) | {"name": job["name"]}
    guest, host = [end - begin for begin, end in zip(times["begin"], times["end"], strict=True)]
    exits = vmm.qmp.of("COLO_EXIT")
    if exits:
        sys.exit(f"{job['name']}: the guest is not protected any more")
    return {"name": job["name"], "fio": json.loads(whole[0]), "checkpoints": checkpoints, "clock": guest / host}


def primary(vmm, peer, delay, jobs):
    told = until_told()
    vmm.start()
    vmm.console.until("bench: waits")
    attached = vmm.protect(peer)
    vmm.set_delay(int(delay))
    done = [run(vmm, job) for job in json.loads(jobs)]
    print(json.dumps({"attached": attached, "jobs": done}), flush=True)
    print("all done", flush=True)
    while not told.wait(0.2) and not vmm.has_ended():
        pass


name, side, *argv = sys.argv[1:]
task, count = {"primary": (primary, 3), "secondary": (secondary, 1)}[side]
vmm = SUBJECTS[name](argv[count:])
try:
    task(vmm, *argv[:count])
finally:
    vmm.kill()
