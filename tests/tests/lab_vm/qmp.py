"""Says QMP commands to a socket, one after the other: qmp.py SOCKET COMMAND[+EVENT]|sleep=SECONDS …

A command is its name; with an event, that is waited for too. Every answer and every event is printed as one
line. An error is the end.
"""
import json
import socket
import sys
import time

path, *words = sys.argv[1:]
for _ in range(600):
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
        break
    except OSError:
        time.sleep(0.1)
else:
    sys.exit(f"nobody listens on {path}")
# Not "rw": such a file forgets what it has read ahead when it is written to.
lines = connection.makefile("r")
print(lines.readline().strip())
for word in ["qmp_capabilities", *words]:
    if word.startswith("sleep="):
        time.sleep(float(word.partition("=")[2]))
        continue
    command, _, event = word.partition("+")
    connection.sendall(json.dumps({"execute": command}).encode())
    waits_for = {"return", *([event] if event else [])}
    while waits_for:
        line = lines.readline()
        if not line:
            sys.exit(f"the connection ended at {word}")
        print(word, line.strip(), flush=True)
        answer = json.loads(line)
        if "error" in answer:
            sys.exit(1)
        waits_for -= {"return" if "return" in answer else answer.get("event")}
