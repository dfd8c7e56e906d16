#!/bin/sh
# Makes a fresh Debian, at $1, into the lab's guest.
set -e
root=$1
echo colo > "$root/etc/hostname"
printf '127.0.0.1 localhost colo\n' > "$root/etc/hosts"
printf '/dev/vda / ext4 defaults,discard 0 1\n' > "$root/etc/fstab"
: > "$root/etc/machine-id"
chroot "$root" passwd -d root > /dev/null

# A login on the serial console that asks for nothing.
mkdir -p "$root/etc/systemd/system/serial-getty@ttyS0.service.d"
cat > "$root/etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf" <<'END'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200,57600,38400,9600 %I vt220
END

install -m 755 "$LAB_RECIPE/net.sh" "$root/usr/local/sbin/colo-net"
install -m 755 "$LAB_RECIPE/run.sh" "$root/usr/local/sbin/colo-run"
install -m 755 "$LAB_RECIPE/colo-load" "$root/usr/local/bin/colo-load"
cat > "$root/etc/systemd/system/colo-net.service" <<'END'
[Unit]
Description=The address that the kernel command line names
DefaultDependencies=no
After=systemd-udev-settle.service
Wants=systemd-udev-settle.service
Before=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/colo-net
[Install]
WantedBy=multi-user.target
END
cat > "$root/etc/systemd/system/colo-run.service" <<'END'
[Unit]
Description=The script that the kernel command line names
After=colo-net.service nginx.service redis-server.service getty.target
[Service]
Type=oneshot
RemainAfterExit=yes
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
ExecStart=/usr/local/sbin/colo-run
[Install]
WantedBy=multi-user.target
END
chroot "$root" systemctl --quiet enable colo-net.service colo-run.service
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer \
    dpkg-db-backup.timer e2scrub_reap.service
# A cluster is there; a server is started by who wants one, on a copy of it.
chroot "$root" systemctl --quiet disable postgresql.service
# Clients come from outside.
sed -i 's/^bind .*/bind * -::*/; s/^protected-mode .*/protected-mode no/' "$root/etc/redis/redis.conf"
echo 'Served by the guest of the lab.' > "$root/var/www/html/index.html"
rm -rf "$root/var/cache/apt/archives"/*.deb "$root/var/lib/apt/lists"/*
