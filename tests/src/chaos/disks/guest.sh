#!/bin/sh
# What a guest with replicated disks does, a line on its console at a time. Its programs are those of a Debian that is
# only read; `data` is an ext4 with files and a database, `raw` is written by fio.
bin=/usr/lib/postgresql/15/bin
stty -echo
for disk in /sys/block/vd*; do ln -s /dev/${disk##*/} /dev/disk-$(cat $disk/serial); done
mkdir /lower /writes /new
mount -t ext4 -o ro /dev/disk-root /lower
mount -t tmpfs writes /writes
mkdir /writes/upper /writes/work
mount -t overlay -o lowerdir=/lower,upperdir=/writes/upper,workdir=/writes/work overlay /new
for dir in dev proc sys; do mount --bind /$dir /new/$dir; done
chmod 1777 /new/tmp /dev/shm
mkdir /new/data

here() { chroot /new "$@"; }
as_postgres() { here su postgres -s /bin/sh -c "$1"; }
mount_data() { mount -t ext4 /dev/disk-data /new/data || echo "disks: WRONG: no file system"; }
is_mounted() { grep -q ' /new/data ' /proc/mounts; }
start_database() {
    as_postgres "$bin/pg_ctl -D /data/database -l /tmp/database.log -w -t 600 start" > /new/tmp/start.log 2>&1 && return
    echo "disks: WRONG: the database does not start"
    tail -n 5 /new/tmp/start.log /new/tmp/database.log
}
stop_database() {
    as_postgres "$bin/pg_ctl -D /data/database -m fast -w -t 600 stop" > /dev/null || echo "disks: WRONG: the database does not stop"
}

# New disks are made ready, once.
prepare() {
    here mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 /dev/disk-data
    mount_data
    cp -a /new/var/lib/postgresql/15/main /new/data/database
    cat > /new/data/database/postgresql.conf <<END
listen_addresses = '*'
unix_socket_directories = '/tmp'
max_connections = 20
shared_buffers = 16MB
min_wal_size = 32MB
max_wal_size = 64MB
jit = off
END
    printf 'local all all trust\nhost all all all trust\n' > /new/data/database/pg_hba.conf
    chown postgres:postgres /new/data/database/*.conf 2> /dev/null || here chown -R postgres:postgres /data/database
    start_database
    as_postgres "$bin/pgbench -h /tmp -i -q postgres" > /new/tmp/init.log 2>&1 || { echo "disks: WRONG: pgbench"; tail -n 5 /new/tmp/init.log; }
    stop_database
    as_postgres "$bin/pg_checksums -D /data/database --enable" > /dev/null || echo "disks: WRONG: no checksums"
    umount /new/data
    echo "disks: prepared"
}

# fio writes all of a region in a random order, and reads it again.
verify() {
    passes=0
    while [ ! -e /new/tmp/end ]; do
        here fio --name=verify --filename=/dev/disk-raw --rw=randwrite --bs=4k --size=3M --iodepth=8 --direct=1 \
            --ioengine=io_uring --verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=$((passes + 1)) \
            > /new/tmp/fio.log 2>&1 || { echo "fio: WRONG: $(tr '\n' ' ' < /new/tmp/fio.log)"; return; }
        passes=$((passes + 1))
        echo "fio: $passes passes, 0 errors"
    done
}

# Each pass is so many transactions of pgbench; then the books must balance.
EACH=10
balance() {
    as_postgres "$bin/psql -h /tmp -Atq postgres" <<END
SELECT (SELECT count(*) FROM pgbench_history WHERE filler IS NULL),
    (SELECT sum(abalance) FROM pgbench_accounts) = h.sum AND (SELECT sum(tbalance) FROM pgbench_tellers) = h.sum
    AND (SELECT sum(bbalance) FROM pgbench_branches) = h.sum FROM (SELECT coalesce(sum(delta), 0) AS sum FROM pgbench_history) h
END
}
transactions() {
    passes=0
    while [ ! -e /new/tmp/end ]; do
        as_postgres "$bin/pgbench -h /tmp -n -c 2 -t $EACH postgres" > /new/tmp/pgbench.log 2>&1 ||
            { echo "pgbench: WRONG: $(tr '\n' ' ' < /new/tmp/pgbench.log)"; return; }
        passes=$((passes + 1))
        said=$(balance)
        [ "$said" = "$((2 * EACH * passes))|t" ] || { echo "pgbench: WRONG: after $passes passes $said"; return; }
        echo "pgbench: $passes passes, 0 errors"
    done
}

files() { here /usr/local/bin/colo-load --every 1 --until /tmp/end files /data/files "$@" || echo "files: WRONG: status $?"; }

work() {
    mount_data
    start_database
    mkdir -p /new/data/files
    files 10.9.0.1:7001 &
    verify &
    transactions &
    echo "disks: work"
}

stop() {
    touch /new/tmp/end
    wait
    echo "disks: stopped"
}

# What is on the disks now: nothing of a file system that was unmounted is in memory any more.
judge() {
    is_mounted || { mount_data; start_database; }
    stop_database
    umount /new/data
    if here e2fsck -fn /dev/disk-data > /new/tmp/e2fsck.log 2>&1; then
        echo "e2fsck: 0 errors"
    else
        echo "e2fsck: WRONG: $(tr '\n' ' ' < /new/tmp/e2fsck.log)"
    fi
    mount_data
    touch /new/tmp/end
    files
    if as_postgres "$bin/pg_checksums -D /data/database --check" > /new/tmp/checksums.log 2>&1; then
        echo "checksums: 0 errors"
    else
        echo "checksums: WRONG: $(tr '\n' ' ' < /new/tmp/checksums.log)"
    fi
    start_database
    said=$(balance)
    case "$said" in
        *"|t") echo "books: 0 errors" ;;
        *) echo "books: WRONG: $said" ;;
    esac
    echo "disks: judged"
}

end() {
    if is_mounted; then
        stop_database
        umount /new/data
    fi
    sync
    echo "disks: ended"
    poweroff -f
}

echo "disks: ready"
while read -r line; do eval "$line"; done
