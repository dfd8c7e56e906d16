#!/bin/busybox sh
# Init of a small guest. The kernel command line says what it does:
#   lab.ip=10.1.0.2/24   the address of eth0
#   lab.root=/dev/vda    go on with the init of this disk
#   lab.overlay=1        the disk is only read: what is written to it stays in memory
#   lab.run=SCRIPT…      run all that follows, then power off; must come last, and the kernel and
#                        systemd see its words too: `single` or `-s` in it are theirs
#   lab.run64=BASE64     the same, encoded, so that nobody else reads it
# A disk that begins with "#!" is a script too. Without any of these there is a shell on the console.
/bin/busybox mkdir -p /proc /sys /dev /sbin /usr/bin /usr/sbin /tmp /root /mnt /run /etc
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
word() { for w in $(cat /proc/cmdline); do case "$w" in "$1="*) echo "${w#*=}"; break;; esac; done; }

for module in $(cat /lib/order); do insmod "/lib/$module" 2> /dev/null || echo "colo-guest: no module $module"; done
hostname colo-guest
ip link set lo up
if [ -n "$(word lab.ip)" ] && [ -e /sys/class/net/eth0 ]; then
    ip link set eth0 up
    ip address add "$(word lab.ip)" dev eth0
fi
export HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin
echo "colo-guest: ready at $(cut -d' ' -f1 /proc/uptime) s"

root=$(word lab.root)
if [ -n "$root" ]; then
    mkdir /new
    no_root() { echo "colo-guest: no root on $root"; poweroff -f; }
    if [ -n "$(word lab.overlay)" ]; then
        mkdir /lower /writes
        mount -t ext4 -o ro "$root" /lower || no_root
        mount -t tmpfs writes /writes
        mkdir /writes/upper /writes/work
        mount -t overlay -o lowerdir=/lower,upperdir=/writes/upper,workdir=/writes/work overlay /new || no_root
        : > /new/etc/fstab
    else
        mount -t ext4 "$root" /new || no_root
    fi
    for dir in dev proc sys; do mount --move /$dir /new/$dir; done
    exec switch_root /new /sbin/init
fi

script=$(sed -n 's/.* lab\.run=//p' /proc/cmdline)
word64=$(sed -n 's/.* lab\.run64=\([^ ]*\).*/\1/p' /proc/cmdline)
[ -z "$word64" ] || script=$(echo "$word64" | base64 -d)
if [ -z "$script" ]; then
    for disk in /sys/block/vd*; do
        [ -e "$disk" ] || continue
        device=/dev/$(basename $disk)
        if [ "$(head -c 2 $device)" = "#!" ]; then script=$(head -c 65536 $device | tr -d '\000'); fi
    done
fi
if [ -z "$script" ]; then
    cd /root
    exec setsid cttyhack sh -l
fi
echo "$script" > /run/script
sh /run/script
echo "colo-guest: status $?"
sync
poweroff -f
sleep 5
reboot -f
