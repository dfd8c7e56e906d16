//! `echo`: gives back what comes over TCP. Whoever sends knows whether it is right.

use crate::Report;
use crate::control::Control;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// Between two looks at whether it is over.
const LOOK: Duration = Duration::from_millis(50);

fn serve(mut stream: TcpStream, echoed: &AtomicU64) {
    let mut block = vec![0; 16 << 10];
    while let Ok(read) = stream.read(&mut block) {
        if read == 0 || stream.write_all(&block[..read]).is_err() {
            break;
        }
        echoed.fetch_add(read as u64, Relaxed);
    }
}

pub(crate) fn echo(port: u64, control: &mut Control) -> Result<Report, String> {
    let failed = |error| format!("cannot listen at port {port}: {error}");
    let number = u16::try_from(port).map_err(|_| format!("there is no port {port}"))?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).map_err(failed)?;
    // What is served and counted ends with the process.
    let echoed: &'static AtomicU64 = Box::leak(Box::default());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream, echoed));
        }
    });
    let report = || Report { line: format!("echo: {} bytes given back", echoed.load(Relaxed)), errors: 0 };
    while !control.is_over(report) {
        thread::sleep(LOOK);
    }
    Ok(report())
}
