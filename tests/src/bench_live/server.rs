//! The guests' server: it sends, takes or echoes as much as it is told, and nothing that differs
//! between two runs.
//!
//! ```text
//!   TCP   'G' + u64   sends so many bytes          'P' + u64   takes so many, then sends one byte
//!         'E' + u32   echoes messages of so many bytes until the end
//!   UDP   echoes datagrams
//! ```

use crate::netns::space::Space;
use anyhow::Result;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};

/// Where it listens.
pub const PORT: u16 = 9000;

const CHUNK: usize = 256 << 10;

/// Starts one in a guest; its threads end with the process.
pub fn start(guest: &Space) -> Result<()> {
    let (listener, datagrams) = guest.enter(|| -> io::Result<_> {
        Ok((
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))?,
            UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT))?,
        ))
    })?;
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || serve(socket));
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((count, from)) = datagrams.recv_from(&mut buffer) {
            // A full queue is a lost datagram.
            let _ = datagrams.send_to(&buffer[..count], from);
        }
    });
    Ok(())
}

fn serve(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let pattern: Vec<u8> = (0..CHUNK).map(|at| (at * 7 + at / 251) as u8).collect();
    let mut buffer = vec![0; CHUNK];
    let mut what = [0; 9];
    while socket.read_exact(&mut what).is_ok() {
        let number = u64::from_be_bytes(what[1..].try_into().unwrap_or_default());
        match what[0] {
            b'G' => {
                let mut left = number;
                while left > 0 {
                    let count = left.min(CHUNK as u64);
                    socket.write_all(&pattern[..count as usize])?;
                    left -= count;
                }
            }
            b'P' => {
                io::copy(&mut (&socket).take(number), &mut io::sink())?;
                socket.write_all(b".")?;
            }
            _ => {
                let len = usize::try_from(number).unwrap_or(CHUNK).min(CHUNK);
                while socket.read_exact(&mut buffer[..len]).is_ok() {
                    socket.write_all(&buffer[..len])?;
                }
            }
        }
    }
    Ok(())
}
