//! Sequence numbers wrap (RFC 9293 §3.4): "before" is a signed difference, good for half the space.

/// Whether `a` is before `b`.
#[inline]
pub(super) const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Whether `a` is `b` or before it.
#[inline]
pub(super) const fn at_or_before(a: u32, b: u32) -> bool {
    !before(b, a)
}

/// The later of the two.
#[inline]
pub(super) const fn later(a: u32, b: u32) -> u32 {
    if before(a, b) { b } else { a }
}
