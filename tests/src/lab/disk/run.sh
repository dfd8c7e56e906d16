#!/bin/bash
# Says that the guest is up, and runs what follows lab.run= (or lab.run64=, encoded) on the kernel command line, if anything does.
# The login on ttyS0 hangs up whoever has that open; who writes to it as the console is spared (vhangup(2)).
exec > /dev/console 2>&1
echo "colo-guest: ready at $(cut -d' ' -f1 /proc/uptime) s"
script=$(sed -n 's/.* lab\.run=//p' /proc/cmdline)
word64=$(sed -n 's/.* lab\.run64=\([^ ]*\).*/\1/p' /proc/cmdline)
[ -z "$word64" ] || script=$(echo "$word64" | base64 -d)
[ -n "$script" ] || exit 0
bash -c "$script"
echo "colo-guest: status $?"
systemctl poweroff
