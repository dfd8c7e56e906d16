//! A guest that does what a table says, again and again: every access that a driver could make, and those
//! that none would.
#![allow(dead_code, reason = "each program of tests uses a part of it")]
//!
//! ```text
//!   0x20_0000 interpreter   0x20_1000 table: (what, where, value) … end
//!   0x30_0000 descriptors   0x30_1000 available   0x30_2000 used   0x30_3000 header, data, status
//! ```

/// Where the interpreter is.
const AT: u32 = 0x20_0000;
/// Where it looks for its table.
const TABLE: usize = 0x1000;

/// What a guest says that has come to the end of its table.
pub(crate) const MARK: u8 = b'E';

/// Takes three words, and jumps to the handler of the first.
#[rustfmt::skip]
const INTERPRETER: [u8; 0xa5] = [
    0xbe, 0x00, 0x10, 0x20, 0x00,             // start: mov esi, table
    0x8b, 0x06,                               // next:  mov eax, [esi]
    0x8b, 0x56, 0x04,                         //        mov edx, [esi + 4]
    0x8b, 0x4e, 0x08,                         //        mov ecx, [esi + 8]
    0x83, 0xc6, 0x0c,                         //        add esi, 12
    0x8d, 0x04, 0xc5, 0x20, 0x00, 0x20, 0x00, //        lea eax, [eax * 8 + handlers]
    0xff, 0xe0,                               //        jmp eax
    0, 0, 0, 0, 0, 0, 0,
    0xeb, 0xde, 0, 0, 0, 0, 0, 0,             //  0: jmp start
    0x88, 0xc8, 0xee, 0xeb, 0xd8, 0, 0, 0,    //  1: mov al, cl; out dx, al; jmp next
    0x89, 0xc8, 0x66, 0xef, 0xeb, 0xcf, 0, 0, //  2: mov eax, ecx; out dx, ax; jmp next
    0x89, 0xc8, 0xef, 0xeb, 0xc8, 0, 0, 0,    //  3: mov eax, ecx; out dx, eax; jmp next
    0xec, 0xeb, 0xc2, 0, 0, 0, 0, 0,          //  4: in al, dx; jmp next
    0xed, 0xeb, 0xba, 0, 0, 0, 0, 0,          //  5: in eax, dx; jmp next
    0x88, 0x0a, 0xeb, 0xb1, 0, 0, 0, 0,       //  6: mov [edx], cl; jmp next
    0x66, 0x89, 0x0a, 0xeb, 0xa8, 0, 0, 0,    //  7: mov [edx], cx; jmp next
    0x89, 0x0a, 0xeb, 0xa1, 0, 0, 0, 0,       //  8: mov [edx], ecx; jmp next
    0x8b, 0x02, 0xeb, 0x99, 0, 0, 0, 0,       //  9: mov eax, [edx]; jmp next
    0xfa, 0xf4, 0xeb, 0xfc, 0, 0, 0, 0,       // 10: cli; hlt; jmp to the cli
    0x0f, 0x0b, 0, 0, 0, 0, 0, 0,             // 11: ud2, and nobody handles it
    0xff, 0x02, 0xeb, 0x81, 0, 0, 0, 0,       // 12: inc dword [edx]; far: jmp next
    0x89, 0xce, 0xeb, 0xf6, 0, 0, 0, 0,       // 13: mov esi, ecx; jmp far
    0x66, 0x8b, 0x02, 0x66, 0x3b, 0x01,       // 14: mov ax, [edx]; cmp ax, [ecx]
    0x75, 0xf8, 0xeb, 0xe8, 0, 0, 0, 0, 0, 0, //     jne 14; jmp far
    0x66, 0xff, 0x02, 0xeb, 0xdd,             // 16: inc word [edx]; jmp far
];

/// Descriptors of the queue that is attacked, and its rings.
pub(crate) const DESCRIPTORS: u32 = 0x30_0000;
pub(crate) const AVAILABLE: u32 = 0x30_1000;
pub(crate) const USED: u32 = 0x30_2000;
const HEADER: u32 = 0x30_3000;
const DATA: u32 = 0x30_4000;
const STATUS: u32 = 0x30_5000;
/// Descriptors that the queue has.
const SIZE: u16 = 16;

/// What a chain has next, and what the device writes.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;

/// The table in the making.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script(Vec<[u32; 3]>);

impl Script {
    pub(crate) fn out(mut self, width: usize, port: u16, value: u32) -> Self {
        let what = match width {
            1 => 1,
            2 => 2,
            _ => 3,
        };
        self.0.push([what, u32::from(port), value]);
        self
    }

    pub(crate) fn input(mut self, width: usize, port: u16) -> Self {
        self.0.push([if width == 1 { 4 } else { 5 }, u32::from(port), 0]);
        self
    }

    pub(crate) fn write(mut self, width: usize, address: u32, value: u32) -> Self {
        let what = match width {
            1 => 6,
            2 => 7,
            _ => 8,
        };
        self.0.push([what, address, value]);
        self
    }

    pub(crate) fn read(mut self, address: u32) -> Self {
        self.0.push([9, address, 0]);
        self
    }

    /// Says on COM1 that it has come so far, whatever that was set to.
    pub(crate) fn mark(self) -> Self {
        self.out(1, 0x3fb, 3).out(1, 0x3fc, 0).out(1, 0x3f8, u32::from(MARK))
    }

    /// Stands still with interrupts off: only a reset helps.
    pub(crate) fn halt(mut self) -> Self {
        self.0.push([10, 0, 0]);
        self
    }

    /// A fault that nobody handles.
    pub(crate) fn fault(mut self) -> Self {
        self.0.push([11, 0, 0]);
        self
    }

    /// Adds 1 to 32 bits.
    pub(crate) fn increment(mut self, address: u32) -> Self {
        self.0.push([12, address, 0]);
        self
    }

    /// Offers the next head of the ring to a device, and waits until that has used it.
    pub(crate) fn offer_next(mut self, slot: u32) -> Self {
        self.0.push([16, AVAILABLE + 2, 0]);
        self = self.notify(slot);
        self.0.push([14, USED + 2, AVAILABLE + 2]);
        self
    }

    /// From here on again and again, instead of from the beginning.
    pub(crate) fn forever(self, act: impl Fn(Self) -> Self) -> Self {
        let again = AT + TABLE as u32 + 12 * self.0.len() as u32;
        let mut all = act(self);
        all.0.push([13, 0, again]);
        all
    }

    /// Numbers the sectors of a disk, from 1, and after each writes how far it is into sector 0; one write after the
    /// other.
    pub(crate) fn number_sectors(self, slot: u32) -> Self {
        const HEADER_0: u32 = HEADER + 0x100;
        let chain = |script: Self, first: u32, header: u32| {
            let next = first as u16 + 1;
            script
                .write(4, header, 1)
                .write(4, header + 12, 0)
                .descriptor(first, header, 16, NEXT, next)
                .descriptor(first + 1, DATA, 512, NEXT, next + 1)
                .descriptor(first + 2, STATUS, 1, WRITE, 0)
        };
        let script = chain(chain(self.start(slot), 0, HEADER), 3, HEADER_0);
        let ring =
            |script: Self, at: usize| script.write(2, AVAILABLE + 4 + 2 * at as u32, at as u32 % 2 * 3);
        script
            .times(usize::from(SIZE), ring)
            .write(4, HEADER + 8, 1)
            .write(4, HEADER_0 + 8, 0)
            .write(4, DATA, 1)
            .forever(|script| {
                let written = script.offer_next(slot).offer_next(slot);
                written.increment(DATA).increment(HEADER + 8)
            })
    }

    /// The same, so often.
    pub(crate) fn times(mut self, count: usize, act: impl Fn(Self, usize) -> Self) -> Self {
        for at in 0..count {
            self = act(self, at);
        }
        self
    }

    /// Writes a register of a PCI function's configuration.
    fn config(self, slot: u32, register: u32, value: u32) -> Self {
        self.out(4, 0xcf8, 0x8000_0000 | slot << 11 | register).out(4, 0xcfc, value)
    }

    /// A register of a slot's common configuration.
    fn common(self, slot: u32, width: usize, register: u32, value: u32) -> Self {
        self.write(width, 0xc000_0000 + (slot - 1) * 0x4000 + register, value)
    }

    /// The device's status.
    pub(crate) fn status(self, slot: u32, status: u32) -> Self {
        self.common(slot, 1, 0x14, status)
    }

    /// A driver begins, with its first queue there.
    pub(crate) fn start_at(self, slot: u32, descriptors: u32, available: u32, used: u32) -> Self {
        self.config(slot, 4, 7)
            .status(slot, 0)
            .status(slot, 1)
            .status(slot, 3)
            .common(slot, 4, 8, 1)
            .common(slot, 4, 12, 1)
            .status(slot, 11)
            .common(slot, 2, 0x16, 0)
            .common(slot, 2, 0x18, u32::from(SIZE))
            .common(slot, 4, 0x20, descriptors)
            .common(slot, 4, 0x28, available)
            .common(slot, 4, 0x30, used)
            .common(slot, 2, 0x1c, 1)
            .status(slot, 15)
    }

    pub(crate) fn start(self, slot: u32) -> Self {
        // What a device wrote before, it does not go on from.
        let clean = self.write(4, AVAILABLE, 0).write(4, USED, 0);
        clean.start_at(slot, DESCRIPTORS, AVAILABLE, USED)
    }

    pub(crate) fn descriptor(self, index: u32, address: u32, len: u32, flags: u16, next: u16) -> Self {
        let at = DESCRIPTORS + 16 * index;
        let last = u32::from(flags) | u32::from(next) << 16;
        self.write(4, at, address).write(4, at + 4, 0).write(4, at + 8, len).write(4, at + 12, last)
    }

    /// A head in the ring's first place.
    pub(crate) fn offer(self, head: u16, index: u16) -> Self {
        self.write(2, AVAILABLE + 4, u32::from(head)).write(2, AVAILABLE + 2, u32::from(index))
    }

    pub(crate) fn notify(self, slot: u32) -> Self {
        self.out(2, 0xc000 + (slot as u16 - 1) * 0x100, 0)
    }

    /// Writes 512 bytes that begin with this to the first sector of a disk.
    pub(crate) fn write_sector(self, word: u32) -> Self {
        self.write(4, HEADER, 1)
            .write(4, HEADER + 8, 0)
            .write(4, HEADER + 12, 0)
            .write(4, DATA, word)
            .descriptor(0, HEADER, 16, NEXT, 1)
            .descriptor(1, DATA, 512, NEXT, 2)
            .descriptor(2, STATUS, 1, WRITE, 0)
            .offer(0, 1)
    }

    /// A kernel that does this for ever.
    pub(crate) fn kernel(mut self) -> Vec<u8> {
        self.0.push([0; 3]);
        let mut code = INTERPRETER.to_vec();
        code.resize(TABLE, 0);
        code.extend(self.0.iter().flatten().flat_map(|word| word.to_le_bytes()));
        elf(&code)
    }
}

/// An ELF file with a PVH note, whose entry is `code`.
pub(crate) fn elf(code: &[u8]) -> Vec<u8> {
    let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut put = |value: u64, len: usize| image.extend(&value.to_le_bytes()[..len]);
    let at = u64::from(AT);
    for (value, len) in
        [(2, 2), (62, 2), (1, 4), (at, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (2, 2), (0, 6)]
    {
        put(value, len);
    }
    let len = code.len() as u64;
    for (kind, offset, len) in [(1, 256, len), (4, 200, 20)] {
        for (value, width) in [(kind, 4), (7, 4), (offset, 8), (at, 8), (at, 8), (len, 8), (len, 8), (4, 8)] {
            put(value, width);
        }
    }
    image.resize(200, 0);
    image.extend([4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0]);
    image.extend(AT.to_le_bytes());
    image.resize(256, 0);
    image.extend(code);
    image
}
