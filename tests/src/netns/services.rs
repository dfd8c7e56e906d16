//! Servers that people run, in both guests, with the same files and settings.

use super::lab::Lab;
use super::program::Program;
use super::space::Space;
use super::wait::until_true;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where nginx serves with its own `Date` header, which can differ between two runs.
pub const HTTP: u16 = 80;
/// Where it serves with a fixed one.
pub const HTTP_DATELESS: u16 = 81;

/// The size of `big.bin`.
pub const BIG: u64 = 4 << 20;

/// A name that the DNS server knows, and its addresses.
pub const NAME: (&str, &str, &str) = ("www.colo.test", "192.0.2.7", "2001:db8::7");

fn folder(lab: &Lab, guest: &Space) -> Result<PathBuf> {
    let dir = lab.dir().join(guest.name());
    fs::create_dir_all(&dir)?;
    fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(dir)
}

fn start(lab: &Lab, guest: &Space, name: &str, line: &str) -> Result<Program> {
    let dir = folder(lab, guest)?;
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().context("an empty command")?);
    command.args(words).current_dir(&dir);
    Program::start(guest, &mut command, &dir.join(format!("{name}.log")))
}

fn listens(guest: &Space, program: &mut Program, filter: &str) -> Result<()> {
    until_true(&format!("somebody listens on {filter}"), || {
        program.must_run()?;
        Ok(!guest.run(&format!("ss -H -lntu {filter}"))?.trim().is_empty())
    })
}

const NGINX: &str = "
daemon off; master_process off; worker_processes 1; error_log stderr; pid DIR/nginx.pid;
load_module /usr/lib/nginx/modules/ngx_http_headers_more_filter_module.so;
events { worker_connections 1024; }
http {
  access_log off; sendfile on; tcp_nopush on; server_tokens off; etag off; root DIR/www;
  client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/fastcgi;
  uwsgi_temp_path DIR/uwsgi; scgi_temp_path DIR/scgi;
  server { listen 80; listen [::]:80; }
  server { listen 81; listen [::]:81; more_clear_headers Date; }
}";

/// `nginx` with a page and a large file.
pub fn nginx(lab: &Lab, guest: &Space) -> Result<Program> {
    let dir = folder(lab, guest)?;
    let www = dir.join("www");
    fs::create_dir_all(&www)?;
    write_same(&www.join("index.html"), b"<h1>one guest, two hosts</h1>\n")?;
    write_same(&www.join("big.bin"), &big())?;
    let config = dir.join("nginx.conf");
    fs::write(&config, NGINX.replace("DIR", &dir.display().to_string()))?;
    let mut program = start(lab, guest, "nginx", &format!("nginx -c {}", config.display()))?;
    listens(guest, &mut program, "sport = 81")?;
    Ok(program)
}

/// What is in the large file.
pub fn big() -> Vec<u8> {
    let mut bytes = vec![0; BIG as usize];
    super::desk::stream(1, 0, &mut bytes);
    bytes
}

/// Writes a file that looks the same in both guests, time of change included.
fn write_same(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes)?;
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    fs::File::options().append(true).open(path)?.set_modified(time)?;
    Ok(())
}

/// `redis-server` without files.
pub fn redis(lab: &Lab, guest: &Space) -> Result<Program> {
    let line = "redis-server --port 6379 --bind * -::* --protected-mode no --save  --appendonly no";
    // An empty value is a word of its own.
    let dir = folder(lab, guest)?;
    let mut command = Command::new("redis-server");
    let words = line.split(' ').skip(1);
    command.args(words).current_dir(&dir);
    let mut program = Program::start(guest, &mut command, &dir.join("redis.log"))?;
    listens(guest, &mut program, "sport = 6379")?;
    Ok(program)
}

/// `iperf3 -s`.
pub fn iperf3(lab: &Lab, guest: &Space) -> Result<Program> {
    let mut program = start(lab, guest, "iperf3", "iperf3 -s --forceflush")?;
    listens(guest, &mut program, "sport = 5201")?;
    Ok(program)
}

/// A DNS server that knows one name.
pub fn dns(lab: &Lab, guest: &Space) -> Result<Program> {
    let (name, v4, v6) = NAME;
    let line = format!(
        "dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root --group=root \
         --pid-file= --port=53 --host-record={name},{v4},{v6} --txt-record=txt.colo.test,one,two"
    );
    let mut program = start(lab, guest, "dnsmasq", &line)?;
    listens(guest, &mut program, "sport = 53")?;
    Ok(program)
}

/// The client uses everything once, over IPv4 and IPv6, and judges what it gets.
pub fn use_all(lab: &Lab, client: &Space, vm: u8) -> Result<()> {
    for address in super::lab::addresses(vm, 0) {
        use_alike(lab, client, address)?;
        http(lab, client, address, HTTP)?;
        for direction in DIRECTIONS {
            load(client, address, 8 << 20, direction)?;
        }
    }
    Ok(())
}

/// The client uses once what answers alike whenever it is asked and however long that takes.
pub fn use_alike(lab: &Lab, client: &Space, address: IpAddr) -> Result<()> {
    http(lab, client, address, HTTP_DATELESS)?;
    commands(client, address)?;
    names(client, address)?;
    let ping = client.run(&format!("ping -n -c 5 -i 0.05 -W 20 -s 700 {address}"))?;
    ensure!(ping.contains("5 received") && !ping.contains("DUP"), "{ping}");
    Ok(())
}

/// `curl` fetches a page and the large file.
pub fn http(lab: &Lab, client: &Space, address: IpAddr, port: u16) -> Result<()> {
    let host = if address.is_ipv4() { address.to_string() } else { format!("[{address}]") };
    let out = lab.dir().join("big.download");
    let page = client.run(&format!("curl -gsSf --max-time 60 http://{host}:{port}/"))?;
    ensure!(page == "<h1>one guest, two hosts</h1>\n", "{page:?}");
    client.run(&format!("curl -gsSf --max-time 60 -o {} http://{host}:{port}/big.bin", out.display()))?;
    ensure!(fs::read(&out)? == big(), "the large file is damaged");
    Ok(())
}

/// `redis-cli` writes, reads and counts.
pub fn commands(client: &Space, address: IpAddr) -> Result<()> {
    let run = |words: &str| client.run(&format!("redis-cli -h {address} {words}"));
    let key = if address.is_ipv4() { "four" } else { "six" };
    ensure!(run(&format!("set {key} value"))?.trim() == "OK");
    ensure!(run(&format!("get {key}"))?.trim() == "value");
    for count in 1..=5 {
        ensure!(run(&format!("incr count-{key}"))?.trim() == count.to_string());
    }
    Ok(())
}

/// `dig` asks for addresses and a text, over UDP and TCP.
pub fn names(client: &Space, address: IpAddr) -> Result<()> {
    let (name, v4, v6) = NAME;
    for transport in ["+notcp", "+tcp"] {
        let dig = |what: &str| {
            client.run(&format!("dig @{address} {transport} +short +tries=5 +timeout=10 {what}"))
        };
        ensure!(dig(&format!("{name} A"))?.trim() == v4);
        ensure!(dig(&format!("{name} AAAA"))?.trim() == v6);
        ensure!(dig("txt.colo.test TXT")?.trim() == "\"one\" \"two\"");
    }
    Ok(())
}

/// Options of `iperf3` for sending and for fetching.
pub const DIRECTIONS: [&str; 2] = ["", "-R"];

/// `iperf3` sends or fetches so many bytes; the bytes are the same in every run. What its server says
/// at the end is not, nor how much it sends beyond them.
pub fn load(client: &Space, address: IpAddr, bytes: u64, direction: &str) -> Result<()> {
    let line = format!("iperf3 -c {address} --repeating-payload -n {bytes} -J {direction}");
    let said: serde_json::Value = serde_json::from_str(&client.run(&line)?)?;
    let count = |what: &str| said["end"][what]["bytes"].as_u64().unwrap_or(0);
    // It ends when that much was sent, some of which the other end has not read then.
    let (sent, received) = (count("sum_sent"), count("sum_received"));
    ensure!(
        sent >= bytes && received > 0,
        "iperf3 received {received} and sent {sent} of {bytes} bytes: {said}"
    );
    Ok(())
}
