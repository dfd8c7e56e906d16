//! The protocol's numbers, with the names that its specification gives them.

/// What a server begins with.
pub const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// What says "newstyle", and what every option begins with.
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// What every answer to an option begins with.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// What every request begins with.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// What every simple reply begins with.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// What every chunk of a structured reply begins with.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// The longest string (a name, a description, a message) that is taken or sent.
pub const MAX_STRING: usize = 4096;
/// The longest data of an option, and of an answer to one, that is taken.
pub const MAX_OPTION: u32 = 64 << 10;
/// The most bytes that one request reads or writes.
pub const MAX_PAYLOAD: u32 = 32 << 20;
/// What requests are best a multiple of.
pub const PREFERRED_BLOCK: u32 = 4096;
/// The most extents in one chunk of block status that are taken.
pub const MAX_EXTENTS: usize = 128 << 10;

/// The context that says what of an export is allocated.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// The context that says that the upper half of a cookie is the epoch of the request.
pub const COLO_EPOCH: &str = "colo:epoch";
/// The contexts that say what the bytes of each region come to, a quarter of it each.
pub const COLO_SUMS: [&str; 4] = ["colo:sum-0", "colo:sum-1", "colo:sum-2", "colo:sum-3"];
/// The most bytes that one request has summed.
pub const MAX_SUMMED: u32 = 16 << 20;
/// The most contexts that are agreed: those above.
pub const MAX_CONTEXTS: usize = 6;

/// What both sides say of the handshake.
pub mod handshake {
    /// Options have answers.
    pub const FIXED_NEWSTYLE: u16 = 1;
    /// There is no padding after an export was chosen by `EXPORT_NAME`.
    pub const NO_ZEROES: u16 = 2;
}

/// What a client can ask for before it chooses an export.
pub mod option {
    /// Choose an export, in the old way.
    pub const EXPORT_NAME: u32 = 1;
    /// Good-bye.
    pub const ABORT: u32 = 2;
    /// What exports are there.
    pub const LIST: u32 = 3;
    /// TLS from here on.
    pub const STARTTLS: u32 = 5;
    /// What an export is like.
    pub const INFO: u32 = 6;
    /// Choose an export.
    pub const GO: u32 = 7;
    /// Replies come in chunks.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// What contexts an export has.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose contexts.
    pub const SET_META_CONTEXT: u32 = 10;
}

/// What a server answers to an option.
pub mod answer {
    /// It is done; the last answer.
    pub const ACK: u32 = 1;
    /// An export.
    pub const SERVER: u32 = 2;
    /// Something about an export.
    pub const INFO: u32 = 3;
    /// A context.
    pub const META_CONTEXT: u32 = 4;
    /// Set in all of those below.
    pub const ERROR: u32 = 1 << 31;
    /// An option that the server does not know.
    pub const ERR_UNSUP: u32 = ERROR | 1;
    /// Not allowed.
    pub const ERR_POLICY: u32 = ERROR | 2;
    /// Not well formed, or not now.
    pub const ERR_INVALID: u32 = ERROR | 3;
    /// Only under TLS.
    pub const ERR_TLS_REQD: u32 = ERROR | 5;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    /// The server is about to end.
    pub const ERR_SHUTDOWN: u32 = ERROR | 7;
    /// More than the server takes.
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
}

/// What is said about an export.
pub mod info {
    /// Its size and its flags.
    pub const EXPORT: u16 = 0;
    /// Its name.
    pub const NAME: u16 = 1;
    /// What a person reads.
    pub const DESCRIPTION: u16 = 2;
    /// The sizes of requests.
    pub const BLOCK_SIZE: u16 = 3;
}

/// What an export can do.
pub mod transmission {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1;
    /// It cannot be written.
    pub const READ_ONLY: u16 = 1 << 1;
    /// `FLUSH` is there.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The flag `FUA` is there.
    pub const SEND_FUA: u16 = 1 << 3;
    /// `TRIM` is there.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// `WRITE_ZEROES` is there.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The flag `DF` is there.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers what was answered on all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// `CACHE` is there.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The flag `FAST_ZERO` is there.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// What can be asked of an export.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write.
    pub const WRITE: u16 = 1;
    /// Good-bye.
    pub const DISC: u16 = 2;
    /// Make stable what was answered.
    pub const FLUSH: u16 = 3;
    /// The bytes do not matter any more.
    pub const TRIM: u16 = 4;
    /// It will be read soon.
    pub const CACHE: u16 = 5;
    /// Make it read as zeros.
    pub const WRITE_ZEROES: u16 = 6;
    /// What the chosen contexts say.
    pub const BLOCK_STATUS: u16 = 7;
}

/// How it is asked.
pub mod flag {
    /// It is stable when it is answered.
    pub const FUA: u16 = 1;
    /// Zeros keep their space.
    pub const NO_HOLE: u16 = 1 << 1;
    /// One chunk.
    pub const DF: u16 = 1 << 2;
    /// One extent.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Only if it is faster than to write.
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// What a chunk of a structured reply holds.
pub mod chunk {
    /// In the flags of a chunk: it is the last.
    pub const DONE: u16 = 1;
    /// Nothing.
    pub const NONE: u16 = 0;
    /// Bytes.
    pub const OFFSET_DATA: u16 = 1;
    /// Zeros.
    pub const OFFSET_HOLE: u16 = 2;
    /// What a context says.
    pub const BLOCK_STATUS: u16 = 5;
    /// Set in those below, and in all errors that may yet come.
    pub const IS_ERROR: u16 = 1 << 15;
    /// An error.
    pub const ERROR: u16 = IS_ERROR | 1;
    /// An error, and where.
    pub const ERROR_OFFSET: u16 = IS_ERROR | 2;
}

/// What `base:allocation` says of an extent.
pub mod allocation {
    /// It takes no space.
    pub const HOLE: u32 = 1;
    /// It reads as zeros.
    pub const ZERO: u32 = 2;
}
