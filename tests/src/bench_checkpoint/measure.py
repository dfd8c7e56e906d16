"""One side of a protected guest in a lab machine, and what can be seen of it from outside.

measure.py VMM secondary PORT ARGV…             is there for its primary until it is told to end (SIGTERM)
measure.py VMM primary ADDRESS:PORT PLAN ARGV…  boots the guest, protects it, and measures

PLAN is JSON: [{"name": …, "delay_ms": MS, "seconds": S}, …]. For each, the delay between checkpoints is set,
and after a settling time checkpoints are watched for S seconds, or longer if there are few. What is found is
printed as one line of JSON at the end. The guest's kernel command line says what it does: nothing is typed, since
what a console takes or says between checkpoints can be lost.

A pause is told twice: by the VMM (vmms.py) and by the kernel: how long the vCPU's thread was outside KVM_RUN, the
longest absences of as many as there were checkpoints.
"""
import json
import re
import signal
import subprocess
import sys
import threading
import time

from vmms import VMMS

TRACING = "/sys/kernel/tracing/"
SETTLE = 3
# A phase is watched until there were so many checkpoints, but not for ever.
FEW, LONGEST = 3, 90


def secondary(vmm, port):
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    vmm.listen(port)
    print("waits", flush=True)
    most = 0
    while not told.wait(0.2) and not vmm.has_ended():
        most = max(most, vmm.resident_kib())
    print(json.dumps({"resident_kib": most, "ended": vmm.has_ended(), "said": vmm.said()[-1000:]}))


def sent(port):
    """Bytes that went to the peer so far."""
    said = subprocess.run(["ss", "-tinH", f"dport = :{port}"], capture_output=True, text=True, check=True).stdout
    return sum(int(number) for number in re.findall(r"bytes_sent:(\d+)", said))


def tell(file, text):
    with open(TRACING + file, "w") as out:
        out.write(text)


class Absences:
    """How long vCPU threads are outside KVM_RUN, as the kernel sees it: from its end to its next call."""

    EVENTS = {"kvm/kvm_userspace_exit": "1", "syscalls/sys_enter_ioctl": "cmd == 0xae80"}

    def __init__(self, threads):
        tell("tracing_on", "0")
        tell("trace_clock", "mono")
        tell("buffer_size_kb", "16384")
        tell("set_event_pid", " ".join(map(str, threads)))
        for event, wanted in self.EVENTS.items():
            if wanted != "1":
                tell(f"events/{event}/filter", wanted)
            tell(f"events/{event}/enable", "1")

    def start(self):
        tell("trace", "")
        tell("tracing_on", "1")

    def stop(self):
        tell("tracing_on", "0")

    def found(self):
        """All of them, the longest first."""
        left, found = {}, []
        with open(TRACING + "trace") as trace:
            for line in trace:
                event = re.match(r".*-(\d+)\s+\[\d+\]\s+\S+\s+(\d+\.\d+): (kvm_userspace_exit|sys_ioctl)", line)
                if not event:
                    continue
                thread, at = event[1], float(event[2])
                if event[3] == "kvm_userspace_exit":
                    left[thread] = at
                elif thread in left:
                    found.append(at - left.pop(thread))
        return sorted(found, reverse=True)


def dirtied(reports, begin, end):
    """MB in a second of the host's: what a guest said that it had rewritten, at the beginning and at the end. None
    of one that never says that."""
    said_by = lambda moment: max((mb for at, mb in reports if at <= moment), default=0)
    return (said_by(end) - said_by(begin)) / (end - begin) if reports else None


def phase(plan, vmm, absences, port):
    vmm.set_delay(plan["delay_ms"])
    time.sleep(SETTLE)
    vmm.until_checkpoints(2)
    bytes_before, before = sent(port), vmm.mark()
    absences.start()
    mark, begin = vmm.mark(), time.monotonic()
    time.sleep(plan["seconds"])
    while vmm.count_since(mark) < FEW and time.monotonic() < begin + LONGEST:
        time.sleep(0.1)
    pauses, count, end = vmm.pauses_since(mark), vmm.count_since(mark), time.monotonic()
    absences.stop()
    # The connection's counter is read a little before and after.
    bytes_after, counted = sent(port), vmm.count_since(before)
    return {
        "name": plan["name"],
        "seconds": end - begin,
        "checkpoints": count,
        "pauses_ms": [pause * 1e3 for pause in pauses],
        "parts": vmm.parts_since(mark),
        "absences_ms": [absence * 1e3 for absence in absences.found()[:count]],
        "bytes": (bytes_after - bytes_before) / max(counted, 1),
        "dirtied": dirtied(vmm.console.reports, begin, end),
    }


def primary(vmm, peer, plans):
    vmm.start()
    vmm.console.until("colo-guest: ready")
    absences = Absences(vmm.vcpus())
    attached, port = vmm.protect(peer), peer.rpartition(":")[2]
    phases = [phase(plan, vmm, absences, port) for plan in json.loads(plans)]
    print(json.dumps({"attached": attached, "phases": phases}))


name, side, *argv = sys.argv[1:]
task, count = {"primary": (primary, 2), "secondary": (secondary, 1)}[side]
vmm = VMMS[name](argv[count:])
try:
    task(vmm, *argv[:count])
finally:
    vmm.kill()
