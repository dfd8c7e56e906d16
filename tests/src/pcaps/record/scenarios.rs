//! What is recorded: one entry per capture, programs and their arguments.

use super::net::Wire;

/// One recording.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The stem of its files.
    pub name: &'static str,
    /// The wire between the client and the guest.
    pub wire: Wire,
    /// Store as pcapng.
    pub ng: bool,
    /// Time stamps in nanoseconds.
    pub nano: bool,
    /// Shell lines that prepare the guest's files in `{dir}`; a second guest gets a copy.
    pub setup: &'static [&'static str],
    /// Programs that run in every guest.
    pub servers: &'static [&'static str],
    /// Programs that run at the client.
    pub client_servers: &'static [&'static str],
    /// TCP ports of the guest that must be open before the capture starts.
    pub ready: &'static [u16],
    /// What happens: who (`cli`, `pri`) does what.
    pub script: &'static [(&'static str, &'static str)],
    /// How long the capture goes on afterwards; `tcpdump` gets what it captured once a second.
    pub linger_ms: u64,
}

const PLAIN: Wire =
    Wire { twin: false, ipv6: false, vlan: false, offload: false, guest_netem: "", client_netem: "" };
/// The client gets the primary's output 150 ms late: by then the secondary has sent its own.
const TWIN: Wire = Wire { twin: true, client_netem: "delay 150ms limit 10000", ..PLAIN };

const BASE: Scenario = Scenario {
    name: "",
    wire: PLAIN,
    ng: false,
    nano: false,
    setup: &[],
    servers: &[],
    client_servers: &[],
    ready: &[],
    script: &[],
    linger_ms: 1800,
};

/// 60 KB towards the guest.
pub(in crate::pcaps) const HTTP_UPLOAD: &str =
    "curl -sS -o /dev/null -H Expect: --data-binary @{dir}/../pri/www/middle.txt http://10.77.0.2/echo";

/// A site: pages whose every byte is known from its place, so that a shifted stream never looks equal.
pub(in crate::pcaps) const SITE: &str = "mkdir -p {dir}/www && seq -f 'line %09g of the big page' 1 7200 | head -c 200000 > {dir}/www/big.txt && \
     head -c 60000 {dir}/www/big.txt > {dir}/www/middle.txt && \
     seq -f 'line %05g' 1 600 > {dir}/www/small.txt && echo '<p>hello</p>' > {dir}/www/index.html && \
     find {dir}/www -exec touch -d 2026-01-01T00:00:00Z {} +";
pub(in crate::pcaps) const NGINX_CONF: &str = "cat > {dir}/nginx.conf <<END\n\
     daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/error.log; events { }\n\
     http { access_log off; default_type text/plain; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; \
     fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s; root {dir}/www; \
     server { listen 10.77.0.2:80; listen [::]:80; location /echo { client_max_body_size 1m; return 200 done; } } \
     include {dir}/tls*.conf; }\nEND";
pub(in crate::pcaps) const NGINX: &str = "nginx -e {dir}/error.log -c {dir}/nginx.conf";
const CERT: &str = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=guest.example \
     -keyout {dir}/key.pem -out {dir}/cert.pem && echo \"server { listen 10.77.0.2:443 ssl; ssl_certificate {dir}/cert.pem; \
     ssl_certificate_key {dir}/key.pem; ssl_protocols TLSv1.2 TLSv1.3; }\" > {dir}/tls.conf";
const SSH_KEYS: &str = "ssh-keygen -q -t ed25519 -N '' -C host -f {dir}/host && ssh-keygen -q -t ed25519 -N '' -C client -f {dir}/id \
     && cp {dir}/id.pub {dir}/authorized && mkdir -p /run/sshd && printf '%s\\n' 'ListenAddress 10.77.0.2' 'HostKey {dir}/host' \
     'AuthorizedKeysFile {dir}/authorized' 'StrictModes no' 'UsePAM no' 'PermitRootLogin yes' 'PidFile none' 'PrintMotd no' \
     'PrintLastLog no' > {dir}/sshd.conf";
const SSHD: &str = "/usr/sbin/sshd -D -e -f {dir}/sshd.conf";
/// The client runs this; the keys are in the primary's directory, beside its own.
const SSH: &str = "cd {dir}/../pri && for t in 'seq 1 2000' 'cat; exit 3'; do seq 1 50 | ssh -F none -o StrictHostKeyChecking=no \
     -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -i id root@10.77.0.2 \"$t\" > /dev/null; done; true";
pub(in crate::pcaps) const DNSMASQ: &str = "dnsmasq -k -C /dev/null -u root -h -R --pid-file= --port=53 --listen-address=10.77.0.2 --bind-interfaces \
     --local=/example/ --host-record=www.example,10.1.2.3,fd00::3 --host-record=mail.example,10.1.2.4 --mx-host=example,mail.example,10 \
     --txt-record=example,a-text-record --srv-host=_http._tcp.example,www.example,80 --address=/any.example/10.9.9.9 \
     --txt-record=long.example,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
pub(in crate::pcaps) const DIG: &str = "for n in www.example mail.example a.any.example b.any.example nothing.example; do for t in A AAAA MX TXT; do \
     dig -b 10.77.0.1#5353 +tries=1 +noall @10.77.0.2 $n $t || exit 1; done; done; dig +noall @10.77.0.2 long.example TXT && \
     dig +noall @10.77.0.2 _http._tcp.example SRV && dig +tcp +noall @10.77.0.2 www.example A";
const POSTGRES_INIT: &str = "chown postgres {dir} && cd / && setpriv --reuid=postgres --regid=postgres --clear-groups \
     /usr/lib/postgresql/15/bin/initdb -D {dir}/db -A trust -N -E UTF8 --locale=C >&2 && \
     echo 'host all all 10.77.0.0/24 trust' >> {dir}/db/pg_hba.conf && chown postgres {dir}/db/pg_hba.conf";
const POSTGRES: &str = "setpriv --reuid=postgres --regid=postgres --clear-groups /usr/lib/postgresql/15/bin/postgres -D {dir}/db \
     -c listen_addresses=10.77.0.2 -c unix_socket_directories= -c fsync=off -c autovacuum=off";
const PSQL: &str = "printf '%s\\n' 'create table t(n int primary key, s text);' \
     \"insert into t select g, 'row ' || g from generate_series(1, 300) g;\" 'select * from t order by n;' \
     \"update t set s = 'changed' where n % 7 = 0;\" 'select count(*), sum(n) from t where s = $$changed$$;' 'select 1/0;' \
     | PGSSLMODE=disable psql -X -q -h 10.77.0.2 -U postgres postgres > /dev/null 2>&1";
pub(in crate::pcaps) const REDIS: &str =
    "redis-server --bind 10.77.0.2 --protected-mode no --save '' --dir {dir}";
pub(in crate::pcaps) const REDIS_CLI: &str = "r='redis-cli -h 10.77.0.2'; { $r -r 40 -i 0.01 INCR n; $r SET key value; $r APPEND key more; $r GET key; \
     $r EVAL 'return string.rep(ARGV[1], 500)' 0 pattern; $r LPUSH key x; true; } > /dev/null";
/// Closes with unread data: the kernel answers with a reset. The second connection is refused at once.
const ABORT: &str = "python3 -c 'import socket,time; s=socket.create_server((\"10.77.0.2\",7000)); c,_=s.accept(); c.sendall(b\"ready\\n\"); \
     time.sleep(.5); c.close(); time.sleep(60)'";
const ABORTED: &str = "(echo one; sleep 0.1; echo two; sleep 1) | nc -w 3 10.77.0.2 7000 > /dev/null; true";
const REFUSED: &str = "nc -z 10.77.0.2 81; nc -z 10.77.0.2 82; true";
pub(in crate::pcaps) const HTTP_THREE: &str = "curl -sS -o /dev/null -o /dev/null -o /dev/null http://10.77.0.2/ http://10.77.0.2/small.txt \
     http://10.77.0.2/nothing && curl -sS -I -o /dev/null http://10.77.0.2/small.txt && \
     curl -sS -o /dev/null -H Connection:close http://10.77.0.2/small.txt";

/// Everything that is recorded.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "http",
        setup: &[SITE, NGINX_CONF],
        servers: &[NGINX],
        ready: &[80],
        script: &[(
            "cli",
            "curl -sS -o /dev/null -o /dev/null -o /dev/null -o /dev/null http://10.77.0.2/ http://10.77.0.2/small.txt \
             http://10.77.0.2/big.txt http://10.77.0.2/",
        )],
        ..BASE
    },
    Scenario {
        name: "http-small",
        nano: true,
        setup: &[SITE, NGINX_CONF],
        servers: &[NGINX],
        ready: &[80],
        script: &[("cli", HTTP_THREE)],
        ..BASE
    },
    Scenario {
        name: "upload",
        ng: true,
        setup: &[SITE, NGINX_CONF],
        servers: &[NGINX],
        ready: &[80],
        script: &[("cli", HTTP_UPLOAD)],
        ..BASE
    },
    Scenario {
        name: "tls",
        setup: &[SITE, NGINX_CONF, CERT],
        servers: &[NGINX],
        ready: &[443],
        script: &[
            ("cli", "curl -sSk -o /dev/null -o /dev/null https://10.77.0.2/ https://10.77.0.2/small.txt"),
            ("cli", "curl -sSk --tls-max 1.2 -o /dev/null https://10.77.0.2/small.txt"),
        ],
        ..BASE
    },
    Scenario {
        name: "ssh",
        setup: &[SSH_KEYS],
        servers: &[SSHD],
        ready: &[22],
        script: &[("cli", SSH)],
        ..BASE
    },
    Scenario {
        name: "dns",
        ng: true,
        nano: true,
        servers: &[DNSMASQ],
        ready: &[53],
        script: &[("cli", DIG)],
        ..BASE
    },
    Scenario {
        name: "postgres",
        setup: &[POSTGRES_INIT],
        servers: &[POSTGRES],
        ready: &[5432],
        script: &[("cli", PSQL)],
        ..BASE
    },
    Scenario { name: "redis", servers: &[REDIS], ready: &[6379], script: &[("cli", REDIS_CLI)], ..BASE },
    Scenario {
        name: "ping",
        script: &[
            ("cli", "ping -q -c 5 -i 0.2 10.77.0.2"),
            ("cli", "ping -q -c 3 -i 0.2 -s 3000 10.77.0.2"),
            ("pri", "ping -q -c 2 -i 0.2 -s 1000 10.77.0.1"),
        ],
        ..BASE
    },
    Scenario {
        name: "ipv6",
        wire: Wire { ipv6: true, ..PLAIN },
        setup: &[SITE, NGINX_CONF],
        servers: &[NGINX],
        ready: &[80],
        script: &[
            ("cli", "ping -q -c 3 -i 0.2 fd77::2"),
            ("cli", "ping -q -c 2 -i 0.2 -s 3000 fd77::2"),
            ("cli", "curl -sS -g -o /dev/null -o /dev/null http://[fd77::2]/ http://[fd77::2]/small.txt"),
        ],
        ..BASE
    },
    Scenario {
        name: "bulk",
        servers: &["iperf3 -s -B 10.77.0.2"],
        ready: &[5201],
        script: &[("cli", "iperf3 -c 10.77.0.2 -R -n 200K > /dev/null")],
        ..BASE
    },
    Scenario {
        name: "bulk-gso",
        wire: Wire { offload: true, ..PLAIN },
        setup: &[SITE],
        servers: &["nc -N -l 10.77.0.2 7001 < {dir}/www/big.txt"],
        script: &[("cli", "sleep 1; nc -d 10.77.0.2 7001 > /dev/null")],
        ..BASE
    },
    Scenario {
        name: "lossy",
        wire: Wire {
            guest_netem: "delay 4ms reorder 80% 50% limit 10000",
            client_netem: "delay 3ms loss 6% limit 10000",
            ..PLAIN
        },
        ng: true,
        setup: &[SITE, NGINX_CONF],
        servers: &[NGINX],
        ready: &[80],
        script: &[("cli", "curl -sS -o /dev/null http://10.77.0.2/big.txt")],
        ..BASE
    },
    Scenario {
        name: "active",
        client_servers: &["python3 -m http.server -d /usr/share/common-licenses -b 10.77.0.1 8080"],
        script: &[
            ("cli", "until nc -z 127.0.0.1 8080 || nc -z 10.77.0.1 8080; do sleep 0.1; done"),
            ("pri", "curl -sS -o /dev/null http://10.77.0.1:8080/BSD"),
            (
                "pri",
                "curl -sS -o /dev/null --data-binary @/usr/share/common-licenses/Artistic http://10.77.0.1:8080/BSD",
            ),
            ("pri", "nc -z 10.77.0.1 8081 || true"),
        ],
        ..BASE
    },
    Scenario {
        name: "rst",
        servers: &[ABORT],
        script: &[("cli", "sleep 1"), ("cli", REFUSED), ("cli", ABORTED)],
        ..BASE
    },
    Scenario {
        name: "vlan",
        wire: Wire { vlan: true, ..PLAIN },
        setup: &[SITE, NGINX_CONF],
        servers: &[NGINX],
        ready: &[80],
        script: &[("cli", "curl -sS -o /dev/null -o /dev/null http://10.77.0.2/ http://10.77.0.2/small.txt")],
        ..BASE
    },
    Scenario {
        name: "twin-ping",
        wire: TWIN,
        script: &[
            ("cli", "arping -q -c 2 -I eth0 10.77.0.2"),
            ("cli", "ping -q -c 4 -i 0.3 10.77.0.2"),
            ("cli", "ping -q -c 2 -i 0.3 -s 3000 10.77.0.2"),
        ],
        ..BASE
    },
    Scenario {
        name: "twin-ipv6",
        wire: Wire { ipv6: true, ..TWIN },
        ng: true,
        setup: &[SITE, NGINX_CONF],
        servers: &[NGINX],
        ready: &[80],
        script: &[
            ("cli", "ping -q -c 3 -i 0.3 fd77::2"),
            ("cli", "curl -sS -g -o /dev/null http://[fd77::2]/small.txt"),
        ],
        ..BASE
    },
    Scenario {
        name: "twin-dns",
        wire: TWIN,
        nano: true,
        servers: &[DNSMASQ],
        ready: &[53],
        script: &[("cli", DIG)],
        ..BASE
    },
    Scenario {
        name: "twin-http",
        wire: TWIN,
        setup: &[SITE, NGINX_CONF],
        servers: &[NGINX],
        ready: &[80],
        script: &[(
            "cli",
            "curl -sS -o /dev/null -o /dev/null http://10.77.0.2/ http://10.77.0.2/middle.txt",
        )],
        ..BASE
    },
    Scenario {
        name: "twin-upload",
        wire: TWIN,
        setup: &[SITE, NGINX_CONF],
        servers: &[NGINX],
        ready: &[80],
        script: &[("cli", HTTP_UPLOAD)],
        ..BASE
    },
    Scenario {
        name: "twin-redis",
        wire: TWIN,
        servers: &[REDIS],
        ready: &[6379],
        script: &[("cli", REDIS_CLI)],
        ..BASE
    },
    Scenario {
        name: "twin-postgres",
        wire: TWIN,
        setup: &[POSTGRES_INIT],
        servers: &[POSTGRES],
        ready: &[5432],
        script: &[(
            "cli",
            "echo 'select 1;' | PGSSLMODE=disable psql -X -q -h 10.77.0.2 -U postgres postgres > /dev/null",
        )],
        ..BASE
    },
    Scenario {
        name: "twin-ssh",
        wire: TWIN,
        setup: &[SSH_KEYS],
        servers: &[SSHD],
        ready: &[22],
        script: &[("cli", SSH)],
        ..BASE
    },
    Scenario {
        name: "twin-tls",
        wire: TWIN,
        setup: &[SITE, NGINX_CONF, CERT],
        servers: &[NGINX],
        ready: &[443],
        script: &[("cli", "curl -sSk -o /dev/null https://10.77.0.2/small.txt")],
        ..BASE
    },
    Scenario {
        name: "twin-rst",
        wire: TWIN,
        servers: &[ABORT],
        script: &[("cli", "sleep 1"), ("cli", REFUSED), ("cli", ABORTED)],
        ..BASE
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = SCENARIOS.iter().map(|s| s.name).collect();
        assert_eq!(names.len(), SCENARIOS.len());
    }
}
