"""Runs one VMM in a lab machine and measures it from outside. One line of JSON comes out.

measure.py entry ARGV…   seconds from the start of the process to the first entry into the guest
measure.py start ARGV…   seconds to the guest's init, and KiB of the process beside the guest's memory
measure.py load ARGV…    what the guest's fio says, and what nginx and iperf3 in the guest do for a client

The guest's memory is the one mapping of 200 MiB and more. Clocks are CLOCK_MONOTONIC throughout.
"""
import http.client
import json
import re
import subprocess
import sys
import time

TRACING = "/sys/kernel/tracing/"
GUEST = "10.9.0.2"
SECONDS = 4


def tell(file, text):
    with open(TRACING + file, "w") as out:
        out.write(text)


def run(argv):
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def read_until(process, mark):
    said = b""
    while mark not in said:
        byte = process.stdout.read1(4096)
        if not byte:
            sys.exit(f"{mark} was never said, but: {said.decode(errors='replace')[-2000:]}")
        said += byte
    return said.decode(errors="replace")


def entry(argv):
    tell("tracing_on", "0")
    tell("trace_clock", "mono")
    tell("trace", "")
    tell("events/kvm/kvm_entry/enable", "1")
    tell("tracing_on", "1")
    begin = time.clock_gettime(time.CLOCK_MONOTONIC)
    process = run(argv)
    try:
        with open(TRACING + "trace_pipe") as pipe:
            for line in pipe:
                found = re.search(r" (\d+\.\d+): kvm_entry:", line)
                if found:
                    return {"entry": float(found[1]) - begin}
    finally:
        tell("events/kvm/kvm_entry/enable", "0")
        tell("tracing_on", "0")
        process.kill()
        process.wait()


def overhead(pid):
    kib, size = 0, 0
    with open(f"/proc/{pid}/smaps") as smaps:
        for line in smaps:
            span = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
            if span:
                size = int(span[2], 16) - int(span[1], 16)
            elif line.startswith("Pss:") and size < 200 << 20:
                kib += int(line.split()[1])
    return kib


def start(argv):
    begin = time.clock_gettime(time.CLOCK_MONOTONIC)
    process = run(argv)
    try:
        read_until(process, b"colo-guest: ready")
        init = time.clock_gettime(time.CLOCK_MONOTONIC) - begin
        return {"init": init, "overhead": overhead(process.pid)}
    finally:
        process.kill()
        process.wait()


def requests():
    connection, count = http.client.HTTPConnection(GUEST, timeout=30), 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        connection.request("GET", "/")
        assert connection.getresponse().read()
        count += 1
    return count / SECONDS


def goodput(*more):
    words = ["iperf3", "-J", "-t", str(SECONDS), "-c", GUEST, *more]
    done = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    return done["end"]["sum_received"]["bits_per_second"] / 1e6


def load(argv):
    process = run(argv)
    try:
        said = read_until(process, b"serving now")
        iops = re.search(r"fio read=(\d+) write=(\d+) errors=(\d+)", said)
        if not iops or iops[3] != "0":
            sys.exit("fio did not run well: " + said[-2000:])
        result = {"read": float(iops[1]), "write": float(iops[2]), "requests": requests()}
        result["to_guest"] = goodput()
        result["from_guest"] = goodput("-R")
        return result
    finally:
        process.kill()
        process.wait()


what, *argv = sys.argv[1:]
print(json.dumps({"entry": entry, "start": start, "load": load}[what](argv)))
