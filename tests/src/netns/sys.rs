//! Packet sockets (`packet(7)`): the calls that have no safe form.
#![allow(unsafe_code, reason = "packet sockets, their addresses and their control messages are libc's")]

use std::ffi::c_void;
use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// What came with a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    /// Bytes of it in the buffer.
    pub(super) copied: usize,
    /// Bytes that it has.
    pub(super) length: usize,
    /// Whether this host sent it.
    pub(super) outgoing: bool,
    /// Ethertype and TCI of a VLAN tag that the kernel keeps beside it.
    pub(super) tag: Option<(u16, u16)>,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn set(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes of the number as it has.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast::<c_void>(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    check(result).map(drop)
}

/// A packet socket on one interface. It hears all frames if it `listens`, else none; its buffer for
/// frames that nobody has read yet has so many bytes.
pub(super) fn open(interface: u32, listens: bool, buffer: i32) -> io::Result<OwnedFd> {
    // SAFETY: numbers only.
    let fd = check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, buffer)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 1 << 22)?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
    // SAFETY: all zeros is a valid address of this kind.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = if listens { (libc::ETH_P_ALL as u16).to_be() } else { 0 };
    address.sll_ifindex = interface as libc::c_int;
    // SAFETY: the address is as long as is said.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    })?;
    Ok(socket)
}

/// Takes the next frame; `WouldBlock` if there is none.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    // SAFETY: all zeros is a valid address, and a valid message header.
    let (mut from, mut message): (libc::sockaddr_ll, libc::msghdr) = unsafe { (zeroed(), zeroed()) };
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = [0u64; 16];
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in the header is to a live local or to the caller's buffer, with its length.
    let got =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_TRUNC | libc::MSG_DONTWAIT) };
    let length = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    let mut tag = None;
    // SAFETY: the header was filled by the kernel; the macros stay within the control buffer.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(&raw const message);
        while let Some(header) = next.as_ref() {
            if header.cmsg_level == libc::SOL_PACKET && header.cmsg_type == libc::PACKET_AUXDATA {
                let aux = libc::CMSG_DATA(next).cast::<libc::tpacket_auxdata>().read_unaligned();
                if aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                    tag = Some((aux.tp_vlan_tpid, aux.tp_vlan_tci));
                }
            }
            next = libc::CMSG_NXTHDR(&raw const message, next);
        }
    }
    Ok(Received {
        copied: length.min(buffer.len()),
        length,
        outgoing: from.sll_pkttype == libc::PACKET_OUTGOING,
        tag,
    })
}

/// Frames that did not fit the socket's buffer since the last call.
pub(super) fn lost(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: all zeros are valid statistics.
    let mut stats: libc::tpacket_stats = unsafe { zeroed() };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than `length` bytes.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut length,
        )
    })?;
    Ok(stats.tp_drops)
}
