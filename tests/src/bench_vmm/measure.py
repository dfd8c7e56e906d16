"""Runs one VMM in a lab machine and measures it from outside. One line of JSON comes out.

measure.py entry ARGV…   seconds from the start of the process to the first entry into the guest
measure.py start ARGV…   seconds to the guest's init, and KiB of the process beside the guest's memory
measure.py load ARGV…    what the guest's fio says, and what nginx and iperf3 in the guest do for a client
measure.py limits FILE   what fio and iperf3 do without any guest

The process beside the guest's memory is the sum of its proportional set sizes (smaps(5): Pss) over all
mappings but the guest's memory, which is the one of 200 MiB and more. Clocks are CLOCK_MONOTONIC throughout.
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


def goodput(address, *more):
    words = ["iperf3", "-J", "-t", str(SECONDS), "-c", address, *more]
    for _ in range(60):
        done = json.loads(subprocess.run(words, capture_output=True).stdout)
        if "error" not in done:
            return done["end"]["sum_received"]["bits_per_second"] / 1e6
        # The server is not there yet, or not done with the last client.
        time.sleep(1)
    sys.exit("iperf3 failed: " + done["error"])


def fio(said):
    """The figures of fio's terse lines (version 3): requests per second of 4 KiB, MiB/s of 1 MiB."""
    figures = {}
    for name, line in re.findall(r"fio (\w+ \w+);(3;[^\r\n]*)", said):
        fields = line.split(";")
        if fields[4] != "0":
            sys.exit("fio failed: " + line)
        bandwidth, requests = (fields[47], fields[48]) if name.endswith("write") else (fields[6], fields[7])
        figures[name] = float(requests) if "rand" in name else float(bandwidth) / 1024
    return figures


def load(argv):
    process = run(argv)
    try:
        said = read_until(process, b"serving now")
        result = fio(said)
        if len(result) != 8:
            sys.exit("fio did not run well: " + said[-2000:])
        result["requests"] = requests()
        result["to_guest"] = goodput(GUEST)
        result["from_guest"] = goodput(GUEST, "-R")
        return result
    finally:
        process.kill()
        process.wait()


def limits(argv):
    said = ""
    for job in ["write 1M 4", "randread 4k 16", "randwrite 4k 16", "read 1M 4"]:
        rw, bs, depth = job.split()
        words = f"fio --name=a --filename={argv[0]} --rw={rw} --bs={bs} --iodepth={depth} --ioengine=io_uring"
        words += " --runtime=3 --time_based --size=256M --minimal"
        out = subprocess.run(words.split(), capture_output=True, check=True, text=True).stdout
        said += f"fio raw {rw};{out}"
    result = fio(said)
    for words in ["netns add limits", "link add limit0 type veth peer name limit1 netns limits",
                  "addr add 10.8.0.1/24 dev limit0", "link set limit0 up",
                  "-n limits addr add 10.8.0.2/24 dev limit1", "-n limits link set limit1 up"]:
        subprocess.run(["ip", *words.split()], check=True)
    server = subprocess.Popen(["ip", "netns", "exec", "limits", "iperf3", "-s"], stdout=subprocess.DEVNULL)
    time.sleep(1)
    try:
        result["to_guest"] = goodput("10.8.0.2")
        result["from_guest"] = goodput("10.8.0.2", "-R")
    finally:
        server.kill()
        server.wait()
    return result


what, *argv = sys.argv[1:]
print(json.dumps({"entry": entry, "start": start, "load": load, "limits": limits}[what](argv)))
