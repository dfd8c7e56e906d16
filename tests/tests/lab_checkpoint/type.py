"""Types on a guest's console: type.py SOCKET PROMPT LINES MARK

Waits until the guest says PROMPT (nothing: types at once), types LINES, and listens until a line begins with
MARK, a regular expression. All that it says is printed. Typing is as slow as a person's: a serial port has little room.
"""
import re
import socket
import sys
import time

path, prompt, lines, mark = sys.argv[1:]
for _ in range(600):
    console = socket.socket(socket.AF_UNIX)
    try:
        console.connect(path)
        break
    except OSError:
        time.sleep(0.1)
else:
    sys.exit(f"nobody listens on {path}")
said = b""


def until(is_so):
    global said
    while not is_so(said.decode(errors="replace")):
        chunk = console.recv(4096)
        if not chunk:
            sys.exit(f"the console closed; it had said {said!r}")
        said += chunk
        # At once: when there is no time left, this is all that is known.
        print(chunk.decode(errors="replace"), end="", flush=True)


until(lambda text: prompt in text)
begin = len(said)
for byte in (lines + "\n").encode():
    console.sendall(bytes([byte]))
    time.sleep(0.002)
# What is typed is echoed, so a mark counts only where a line begins with it.
until(lambda text: any(re.match(mark, line) for line in text[begin:].splitlines()))
