"""One side of a protected guest in a lab machine, and what can be seen of it from outside.

measure.py VMM secondary PORT ARGV…             waits on PORT until it is told to end (SIGTERM)
measure.py VMM primary ADDRESS:PORT PLAN ARGV…  boots the guest, protects it, and measures

PLAN is JSON: [{"name": …, "delay_ms": MS, "seconds": S}, …]. For each, the delay between checkpoints is set,
and after a settling time checkpoints are watched for S seconds. What is found is printed as one line of JSON at
the end. The guest's kernel command line says what it does: nothing is typed, since what a console takes or says
between checkpoints can be lost.

A pause is told twice: by the VMM (QEMU: the time stamps of its events STOP and RESUME) and by the kernel: how
long the vCPU's thread was outside KVM_RUN, the longest absences of as many as there were checkpoints.
"""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

TRACING = "/sys/kernel/tracing/"
SETTLE = 3
PATIENCE = 240


class Qmp:
    """QEMU's monitor; events are kept as they come."""

    def __init__(self, path):
        deadline = time.monotonic() + PATIENCE
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(path)
                break
            except OSError:
                if time.monotonic() > deadline:
                    sys.exit(f"QEMU does not listen on {path}")
                time.sleep(0.1)
        self.events, self.answers = [], []
        self.changed = threading.Condition()
        self.gone = False
        threading.Thread(target=self.read, daemon=True).start()
        self.ask("qmp_capabilities")

    def read(self):
        for line in self.socket.makefile("r"):
            said = json.loads(line)
            with self.changed:
                if "event" in said:
                    self.events.append(said)
                elif "QMP" not in said:
                    self.answers.append(said)
                self.changed.notify_all()
        with self.changed:
            self.gone = True
            self.changed.notify_all()

    def ask(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        with self.changed:
            if not self.changed.wait_for(lambda: self.answers or self.gone, PATIENCE) or not self.answers:
                sys.exit(f"no answer to {command}")
            answer = self.answers.pop(0)
        if "error" in answer:
            sys.exit(f"{command}: {answer['error']}")
        return answer["return"]

    def until(self, name, count=1):
        """Waits until so many events of a name have come."""
        with self.changed:
            is_so = lambda: self.gone or sum(event["event"] == name for event in self.events) >= count
            if not self.changed.wait_for(is_so, PATIENCE) or self.gone:
                sys.exit(f"{name} never came {count} times; {[event['event'] for event in self.events[-9:]]}")

    def of(self, name):
        with self.changed:
            stamps = [event["timestamp"] for event in self.events if event["event"] == name]
        return [stamp["seconds"] + stamp["microseconds"] / 1e6 for stamp in stamps]


class Console:
    """What the guest says."""

    def __init__(self, process):
        self.said = ""
        self.process = process
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        while chunk := self.process.stdout.read1(4096):
            self.said += chunk.decode(errors="replace")

    def until(self, mark):
        deadline = time.monotonic() + PATIENCE
        while mark not in self.said:
            if time.monotonic() > deadline or self.process.poll() is not None:
                sys.exit(f"the guest never said {mark!r}, but: {self.said[-2000:]}")
            time.sleep(0.1)


class Vmm:
    """A VMM that runs one guest, whoever wrote it."""

    def __init__(self, argv):
        path = f"/tmp/qmp-{os.getpid()}"
        self.process = subprocess.Popen([*argv, *self.qmp_words(path)], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.console = Console(self.process)
        self.qmp = Qmp(path)

    def set_delay(self, ms):
        self.qmp.ask("migrate-set-parameters", **{"x-checkpoint-delay": ms})

    def vcpus(self):
        return [cpu["thread-id"] for cpu in self.qmp.ask("query-cpus-fast")]

    def resident_kib(self):
        """Resident memory of the process, without files."""
        with open(f"/proc/{self.process.pid}/status") as status:
            said = status.read()
        return sum(int(kib) for kib in re.findall(r"Rss(?:Anon|Shmem):\s+(\d+)", said))


class Qemu(Vmm):
    """QEMU's COLO, without a comparer: checkpoints come by the timer."""

    def qmp_words(self, path):
        return ["-qmp", f"unix:{path},server=on,wait=off"]

    def enable(self):
        self.qmp.ask("migrate-set-capabilities", capabilities=[{"capability": "x-colo", "state": True}])

    def listen(self, port):
        self.enable()
        self.qmp.ask("migrate-incoming", uri=f"tcp:0.0.0.0:{port}")

    def protect(self, peer):
        self.enable()
        self.qmp.ask("migrate-set-parameters", **{"x-checkpoint-delay": 1000, "max-bandwidth": 10**10})
        self.qmp.ask("migrate", uri=f"tcp:{peer}")
        while (status := self.qmp.ask("query-migrate").get("status")) != "colo":
            if status in ["failed", "completed"]:
                sys.exit(f"no COLO: {status}")
            time.sleep(0.1)
        self.until_checkpoints(1)

    def until_checkpoints(self, more):
        self.qmp.until("RESUME", len(self.qmp.of("RESUME")) + more)

    def mark(self):
        return len(self.qmp.of("STOP")), len(self.qmp.of("RESUME"))

    def pauses_since(self, mark):
        """Seconds of each pause that began and ended after the mark."""
        stops, resumes = self.qmp.of("STOP")[mark[0]:], self.qmp.of("RESUME")[mark[1]:]
        # The mark may be in a pause.
        while stops and resumes and resumes[0] < stops[0]:
            resumes.pop(0)
        return [resume - stop for stop, resume in zip(stops, resumes)]


def secondary(vmm, port):
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    vmm.listen(port)
    print("waits", flush=True)
    most = 0
    while not told.wait(0.5) and vmm.process.poll() is None:
        most = max(most, vmm.resident_kib())
    print(json.dumps({"resident_kib": most, "status": vmm.process.poll(), "said": vmm.console.said[-1000:]}))


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


def phase(plan, vmm, absences, port):
    vmm.set_delay(plan["delay_ms"])
    time.sleep(SETTLE)
    vmm.until_checkpoints(2)
    bytes_before, counted = sent(port), vmm.mark()
    absences.start()
    mark, begin = vmm.mark(), time.monotonic()
    time.sleep(plan["seconds"])
    pauses, seconds = vmm.pauses_since(mark), time.monotonic() - begin
    absences.stop()
    bytes_after, counted = sent(port), len(vmm.pauses_since(counted))
    rates = re.findall(r"dirty: wrote .*, (\d+\.\d+) MB/s", vmm.console.said)
    return {
        "name": plan["name"],
        "seconds": seconds,
        "pauses_ms": [pause * 1e3 for pause in pauses],
        "absences_ms": [absence * 1e3 for absence in absences.found()[:len(pauses)]],
        # The connection's counter is read a little before and after.
        "bytes": (bytes_after - bytes_before) / max(counted, 1),
        "dirtied": float(rates[-1]) if rates else None,
    }


def primary(vmm, peer, plans):
    vmm.console.until("colo-guest: ready")
    absences = Absences(vmm.vcpus())
    begin = time.monotonic()
    vmm.protect(peer)
    attached, port = time.monotonic() - begin, peer.rpartition(":")[2]
    phases = [phase(plan, vmm, absences, port) for plan in json.loads(plans)]
    print(json.dumps({"attached": attached, "phases": phases}))


VMMS = {"qemu": Qemu}
name, side, *argv = sys.argv[1:]
task, count = {"primary": (primary, 2), "secondary": (secondary, 1)}[side]
vmm = VMMS[name](argv[count:])
try:
    task(vmm, *argv[:count])
finally:
    vmm.process.kill()
