"""The VMMs that measure.py measures: how each is told what to do, and what each says of its pauses.

QEMU: from the time stamp of its event STOP to that of RESUME. colo-vm: query-colo-status, `last.stood`, asked for
ten times a second: of checkpoints that follow each other more closely it is a sample, and their number is the
status's own.
"""
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

PATIENCE = 240


class Qmp:
    """A monitor; events are kept as they come."""

    def __init__(self, path):
        deadline = time.monotonic() + PATIENCE
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(path)
                break
            except OSError:
                if time.monotonic() > deadline:
                    sys.exit(f"nobody listens on {path}")
                time.sleep(0.1)
        self.events, self.answers = [], []
        self.changed = threading.Condition()
        self.asking = threading.Lock()
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
        words = {"execute": command, "arguments": arguments} if arguments else {"execute": command}
        with self.asking:
            self.socket.sendall(json.dumps(words).encode())
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
    """What the guest says, and when it reported how much it had rewritten."""

    def __init__(self, process):
        self.said, self.reports = "", []
        self.process = process
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        read = 0
        while chunk := self.process.stdout.read1(4096):
            self.said += chunk.decode(errors="replace")
            for report in re.compile(r"dirty: wrote (\d+) MB in .*\n").finditer(self.said, read):
                read = report.end()
                self.reports.append((time.monotonic(), int(report[1])))

    def until(self, mark):
        deadline = time.monotonic() + PATIENCE
        while mark not in self.said:
            if time.monotonic() > deadline or self.process.poll() is not None:
                sys.exit(f"the guest never said {mark!r}, but: {self.said[-2000:]}")
            time.sleep(0.1)


class Vmm:
    """A VMM that runs one guest, whoever wrote it."""

    def __init__(self, argv):
        self.argv = argv
        self.process = self.console = self.qmp = None

    def start(self):
        path = f"/tmp/qmp-{os.getpid()}"
        process = subprocess.Popen([*self.argv, *self.qmp_words(path)], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.console, self.process = Console(process), process
        self.qmp = Qmp(path)

    def kill(self):
        if self.process:
            self.process.kill()

    def type(self, line):
        """A line on the guest's console."""
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def has_ended(self):
        return self.process is not None and self.process.poll() is not None

    def said(self):
        return self.console.said if self.console else ""

    def set_delay(self, ms):
        self.qmp.ask("migrate-set-parameters", **{"x-checkpoint-delay": ms})

    def vcpus(self):
        return [cpu["thread-id"] for cpu in self.qmp.ask("query-cpus-fast")]

    def resident_kib(self):
        """Resident memory of the process at its highest so far, without files."""
        if not self.process:
            return 0
        with open(f"/proc/{self.process.pid}/status") as status:
            kib = dict(re.findall(r"(VmHWM|RssFile):\s+(\d+)", status.read()))
        return int(kib.get("VmHWM", 0)) - int(kib.get("RssFile", 0))


class Qemu(Vmm):
    """QEMU's COLO, without a comparer: checkpoints come by the timer."""

    def qmp_words(self, path):
        return ["-qmp", f"unix:{path},server=on,wait=off"]

    def enable(self):
        self.qmp.ask("migrate-set-capabilities", capabilities=[{"capability": "x-colo", "state": True}])

    def listen(self, port):
        self.start()
        self.enable()
        self.qmp.ask("migrate-incoming", uri=f"tcp:0.0.0.0:{port}")

    def protect(self, peer):
        begin = time.monotonic()
        self.enable()
        self.qmp.ask("migrate-set-parameters", **{"x-checkpoint-delay": 1000, "max-bandwidth": 10**10})
        self.qmp.ask("migrate", uri=f"tcp:{peer}")
        while (status := self.qmp.ask("query-migrate").get("status")) != "colo":
            if status in ["failed", "completed"]:
                sys.exit(f"no COLO: {status}")
            time.sleep(0.1)
        self.until_checkpoints(1)
        return time.monotonic() - begin

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

    def count_since(self, mark):
        return len(self.pauses_since(mark))

    def parts_since(self, mark):
        """QEMU does not say what its checkpoints consist of."""
        return {}


def seconds(duration):
    return duration["secs"] + duration["nanos"] / 1e9


class Ours(Vmm):
    """This repository's. A primary looks for its secondary from its start on; so that the guest has booted
    before it is protected, as QEMU's has, the secondary is started when its primary's guest has: at its gate
    somebody knocks. The ports between are those of disks."""

    GATE = 100

    PARTS = ["stop", "log", "copy", "state", "resume"]
    # Of a checkpoint, not of its pause.
    AFTER, COUNTS = ["transfer", "load"], ["pages", "foreign", "ahead"]

    def __init__(self, argv):
        super().__init__(argv)
        # The last checkpoints that were seen, by number.
        self.seen = {}

    def qmp_words(self, path):
        return ["--qmp", f"unix:{path}"]

    def listen(self, port):
        gate = socket.create_server(("", int(port) + self.GATE))

        def open_gate():
            caller, _ = gate.accept()
            self.start()
            caller.close()

        threading.Thread(target=open_gate, daemon=True).start()

    def status(self):
        status = self.qmp.ask("query-colo-status")["x-checkpoints"]
        # One session, from its beginning to the end of all this.
        if status["sessions"] > 1 or (status["sessions"] and status["error"]):
            sys.exit(f"the pair came apart: {status['error']}")
        if status["last"]:
            self.seen[status["last"]["epoch"]] = status["last"]
        return status

    def protect(self, peer):
        address, _, port = peer.rpartition(":")
        with socket.create_connection((address, int(port) + self.GATE), PATIENCE) as gate:
            gate.settimeout(PATIENCE)
            # Nothing is said; it closes when the secondary is there.
            gate.recv(1)
        deadline = time.monotonic() + PATIENCE
        # When the two meet is a matter of how often the primary looks.
        while self.status()["sessions"] == 0:
            if time.monotonic() > deadline:
                sys.exit(f"the primary found no secondary: {self.said()[-2000:]}")
            time.sleep(0.05)
        begin = time.monotonic()
        self.until_checkpoints(1)
        attached = time.monotonic() - begin
        threading.Thread(target=self.watch, daemon=True).start()
        return attached

    def watch(self):
        while True:
            self.status()
            time.sleep(0.1)

    def until_checkpoints(self, more):
        deadline = time.monotonic() + PATIENCE
        wanted = self.mark() + more
        while self.mark() < wanted:
            if time.monotonic() > deadline:
                sys.exit(f"no more checkpoints: {self.status()}")
            time.sleep(0.05)

    def mark(self):
        return self.status()["checkpoints"]

    def since(self, mark):
        return [last for epoch, last in sorted(self.seen.items()) if epoch > mark]

    def pauses_since(self, mark):
        return [seconds(last["stood"]["total"]) for last in self.since(mark)]

    def count_since(self, mark):
        return self.mark() - mark

    def parts_since(self, mark):
        """What a checkpoint consists of: milliseconds, and pages."""
        since = self.since(mark)
        parts = {part: [seconds(last["stood"][part]) * 1e3 for last in since] for part in self.PARTS}
        parts |= {part: [seconds(last[part]) * 1e3 for last in since] for part in self.AFTER}
        return parts | {count: [last[count] for last in since] for count in self.COUNTS}


VMMS = {"qemu": Qemu, "colo-vm": Ours, "periodic": Ours}
