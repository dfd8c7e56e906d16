#!/bin/busybox sh
# Init of a lab machine: the host's root under an overlay that forgets, KVM, networks, and the agent.
/bin/busybox mkdir -p /proc /sys /dev /sbin /usr/bin /usr/sbin /h /o /tmp
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
say() { echo "lab: $* ($(cut -d' ' -f1 /proc/uptime) s)"; }
word() { for w in $(cat /proc/cmdline); do case "$w" in "$1="*) echo "${w#*=}";; esac; done; }
fail() { say "cannot go on: $*"; sleep 1; poweroff -f; }
say kernel is up

for module in $(cat /lib/order); do insmod "/lib/$module" || say "no module $module"; done
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 host /h || fail "no root of the host"

# All of it can be written to; what is written is gone with the machine.
mount -t tmpfs -o mode=755 overlay /o
mkdir /o/upper /o/work /o/root
mount -t overlay -o lowerdir=/h,upperdir=/o/upper,workdir=/o/work overlay /o/root || fail "no overlay"
R=/o/root
mkdir -p $R/proc $R/sys $R/dev $R/run $R/results
mount -t proc proc $R/proc
mount -t sysfs sys $R/sys
mount -t devtmpfs dev $R/dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o ptmxmode=666 devpts $R/dev/pts
mount -t tmpfs tmpfs $R/dev/shm
mount -t tmpfs -o mode=755 tmpfs $R/run
mkdir -p $R/run/netns $R/run/lock
mount -t bpf bpf $R/sys/fs/bpf
mount -t cgroup2 cgroup $R/sys/fs/cgroup
mount -t tracefs tracefs $R/sys/kernel/tracing
mount -t 9p -o trans=virtio,version=9p2000.L,cache=mmap,msize=512000 results $R/results || fail "no results"
ln -sfn /proc/self/fd /dev/fd

# From here on the kernel finds modules by itself, as on an installed machine.
rm -rf /lib/modules
ln -s "/h$(word lab.modules)" /lib/modules
modprobe kvm enable_vmware_backdoor=1
grep -q -w svm /proc/cpuinfo && modprobe kvm-amd
grep -q -w vmx /proc/cpuinfo && modprobe kvm-intel
[ -c /dev/kvm ] || say "there is no /dev/kvm"
modprobe tun
chmod 666 /dev/kvm /dev/net/tun

# Network cards are told by their address: 52:54:00:c0:NETWORK:HOST.
hostname "lab-$(word lab.host)"
ip link set lo up
for card in /sys/class/net/*; do
    case "$(cat $card/address)" in
        52:54:00:c0:00:*) name=client0; net=0; mtu=1500;;
        52:54:00:c0:01:*) name=fwd0; net=1; mtu=9000;;
        52:54:00:c0:02:*) name=repl0; net=2; mtu=9000;;
        *) continue;;
    esac
    ip link set "$(basename $card)" down
    ip link set "$(basename $card)" name $name
    ip link set $name mtu $mtu
    echo 0 > /proc/sys/net/ipv6/conf/$name/accept_dad
    ip link set $name up
    ip address add "10.77.$net.$(word lab.number)/24" dev $name
done

date -s "@$(word lab.time)" > /dev/null
# The port is there a moment after its driver.
port=
tries=0
while [ -z "$port" ]; do
    for name in /sys/class/virtio-ports/*/name; do
        [ "$(cat $name 2> /dev/null)" = colo.agent ] && port=/dev/$(basename $(dirname $name))
    done
    tries=$((tries + 1))
    [ $tries -gt 200 ] && fail "no port to the outside"
    [ -n "$port" ] || usleep 50000
done
say ready for commands
export LAB=1 LAB_HOST="$(word lab.host)" LAB_RESULTS=/results HOME=/root LANG=C.UTF-8 TERM=dumb
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
chroot $R "$(word lab.agent)" agent $port
say "the agent ended: $?"
sync
poweroff -f
