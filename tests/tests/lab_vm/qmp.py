"""Says QMP commands to a socket, one after the other: qmp.py SOCKET COMMAND|sleep=SECONDS …

A command is its name; every answer and every event is printed as one line. An error is the end.
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
    connection.sendall(json.dumps({"execute": word}).encode())
    while True:
        line = lines.readline()
        if not line:
            sys.exit(f"the connection ended at {word}")
        print(word, line.strip(), flush=True)
        answer = json.loads(line)
        if "error" in answer:
            sys.exit(1)
        if "return" in answer:
            break
