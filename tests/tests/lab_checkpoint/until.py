"""Waits for a status: until.py SOCKET CONDITION

CONDITION is an expression of Python about `s`, what the guest's checkpoints are (`x-checkpoints` of
query-colo-status). It is asked for over and over on a QMP socket; the last answer is printed, also when there is
no time left (the caller's patience ends this).
"""
import json
import socket
import sys
import time

path, condition = sys.argv[1:]
for _ in range(600):
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
        break
    except OSError:
        time.sleep(0.1)
else:
    sys.exit(f"nobody listens on {path}")
lines = connection.makefile("r")
lines.readline()


def ask(command):
    connection.sendall(json.dumps({"execute": command}).encode())
    for line in lines:
        answer = json.loads(line)
        if "error" in answer:
            sys.exit(line)
        if "return" in answer:
            return answer["return"]
    sys.exit("the connection ended")


ask("qmp_capabilities")
before = None
while True:
    s = ask("query-colo-status")["x-checkpoints"]
    if (s["phase"], s["sessions"], s["error"]) != before:
        before = s["phase"], s["sessions"], s["error"]
        print(s, flush=True)
    if eval(condition):
        print(s)
        break
    time.sleep(0.1)
