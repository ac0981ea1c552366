//! The tile unit of Intel CPUs (AMX): the only place that speaks to it, and the only `unsafe` around it.
//!
//! A tile register holds up to 16 rows of 64 bytes. `TDPBF16PS C, A, B` adds to C (rows x 16, f32) the product of A
//! (rows x 32, bf16) and B (32 x 16, bf16; stored as 16 rows of 16 column *pairs* `k, k + 1`). Per column it first sums
//! its 16 even and its 16 odd products from zero, then adds the two sums to C. It rounds to nearest, reads denormal
//! bf16 inputs as zero and flushes denormal results to zero (Intel 64 and IA-32 SDM, volume 2, `TDPBF16PS`).
//!
//! Each row of C depends on its own row of A alone, so a row's bits do not depend on its neighbours or its position.

use super::piece::Piece;
use bytemuck::{Pod, Zeroable};

/// Rows of a tile.
pub(super) const TILE_ROWS: usize = 16;
/// bf16 values of a line, which is also how far one tile product goes along K.
pub(super) const STEP: usize = 32;
/// Lines of one step of a panel: 3 planes x 2 tiles x 16 rows.
pub(super) const STEP_LINES: usize = 3 * 2 * TILE_ROWS;
/// Columns of a panel of B and of a block of C.
pub(super) const WIDTH: usize = 32;

/// One row of a tile: 32 bf16 values by their bits, on a cache line of its own.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u16; STEP]);

/// Proof that this process may use the tile unit. Only [`Amx::detect`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amx(());

impl Amx {
    /// Asks the CPU for AMX-TILE, AMX-BF16 and AVX-512F, and the kernel (Linux) for the permission to use the tiles.
    pub fn detect() -> Option<Self> {
        static FOUND: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        FOUND.get_or_init(available).then_some(Amx(()))
    }

    /// Multiplies packed rows of X with one panel of W, over one block of K. `x` is panel x step x [`STEP_LINES`] with
    /// `tile_rows` rows per tile (1 to 16), `w` is step x [`STEP_LINES`]; plane p holds the p-th part of each value
    /// (`split.rs`). Six of the nine products of parts are summed, those of order 0, 1 and 2. `ahead` is what will be
    /// used next of W, or empty. The sums go to the columns of `y` from `column` on; with `add` they start from what
    /// is there.
    ///
    /// # Panics
    /// If `tile_rows` or a length does not fit.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    pub(super) fn panel(
        self,
        tile_rows: usize,
        x: &[Line],
        w: &[Line],
        ahead: &[Line],
        y: &mut Piece<'_>,
        column: usize,
        add: bool,
    ) {
        assert!((1..=TILE_ROWS).contains(&tile_rows));
        assert!(!w.is_empty() && w.len().is_multiple_of(STEP_LINES));
        assert!(!x.is_empty() && x.len().is_multiple_of(w.len()));
        tiles::panel(tile_rows, x, w, ahead, y, column, add);
    }

    /// There is no [`Amx`] to call this with.
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    pub(super) fn panel(self, _: usize, _: &[Line], _: &[Line], _: &[Line], _: &mut Piece<'_>, _: usize, _: bool) {}
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn available() -> bool {
    false
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn available() -> bool {
    /// CPUID leaf 7 (EDX): AMX-BF16 and AMX-TILE.
    const LEAF_7_EDX: u32 = (1 << 22) | (1 << 24);
    /// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
    const SYS_ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;

    let has_leaf_7 = std::arch::x86_64::__cpuid(0).eax >= 7;
    if !has_leaf_7 || std::arch::x86_64::__cpuid_count(7, 0).edx & LEAF_7_EDX != LEAF_7_EDX {
        return false;
    }
    let mut result = SYS_ARCH_PRCTL;
    // SAFETY: the call takes two integers, touches no memory of ours and grants a permission or returns an error.
    // The kernel overwrites rcx and r11 and nothing else.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0 && is_x86_feature_detected!("avx512f")
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles {
    use super::{Line, Piece, STEP_LINES, TILE_ROWS, WIDTH};
    use std::arch::asm;

    /// Rows of a block of C, on cache lines of their own.
    #[repr(C, align(64))]
    struct Block([[f32; WIDTH]; 2 * TILE_ROWS]);

    /// Lines that a step can prefetch to L2: one per tile product.
    const MAX_LINES_AHEAD: usize = 24;

    /// The memory operand of `LDTILECFG`.
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        bytes_per_row: [u16; 16],
        rows: [u8; 16],
    }

    /// Every panel of `a` (two tiles of `rows` rows) by `b`. The tile registers: 0 to 3 are C (2 x 2), 4 and 5 are A,
    /// 6 and 7 are B. While `b` is used, `ahead` is brought into the L2 cache, a part of it per panel of `a`.
    pub fn panel(rows: usize, a: &[Line], b: &[Line], ahead: &[Line], y: &mut Piece<'_>, column: usize, add: bool) {
        let steps = b.len() / STEP_LINES;
        let (r, full) = (rows as u8, TILE_ROWS as u8);
        let config = Config {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            bytes_per_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
            rows: [r, r, r, r, r, r, full, full, 0, 0, 0, 0, 0, 0, 0, 0],
        };
        let lines_per_step = ahead.len().div_ceil(a.len() / STEP_LINES).min(MAX_LINES_AHEAD);
        // SAFETY: an `Amx` exists (the caller's self), so the tiles may be used; the operand is 64 bytes of a valid
        // configuration.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        for (i, a) in a.chunks_exact(b.len()).enumerate() {
            let ahead = ahead.as_ptr().wrapping_add(i * steps * lines_per_step);
            let row0 = 2 * rows * i;
            let run = |c: *mut f32, ld: usize| {
                let c = Tiles { upper: c, lower: c.wrapping_add(rows * ld), row_bytes: ld * size_of::<f32>() };
                // SAFETY: `a` and `b` hold `steps` x 96 lines and `steps` is not zero (the caller asserts both), the
                // tiles are configured with at most 16 rows of 64 bytes, and `c` is 2 x `rows` rows of 32 values.
                unsafe { block(a.as_ptr(), b.as_ptr(), steps, ahead, lines_per_step * size_of::<Line>(), c, add) };
            };
            let ld = y.ld();
            if let Some(c) = y.block(row0, column, 2 * rows, WIDTH) {
                run(c, ld);
                continue;
            }
            // At the edge of Y: the same over a copy.
            let mut c = Block([[0.0; WIDTH]; 2 * TILE_ROWS]);
            let seen = (y.columns() - column).min(WIDTH);
            let rows_seen = y.rows().saturating_sub(row0).min(2 * rows);
            for (j, c) in c.0[..rows_seen].iter_mut().enumerate() {
                c[..seen].copy_from_slice(&y.row(row0 + j)[column..][..seen]);
            }
            run(c.0.as_mut_ptr().cast(), WIDTH);
            for (j, c) in c.0[..rows_seen].iter().enumerate() {
                y.put(row0 + j, column, c, false);
            }
        }
        // SAFETY: the tiles were configured above; nothing of them is needed any more.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }

    /// Where a block of C lies in memory: two tiles of rows over each other, each 32 columns wide.
    struct Tiles {
        upper: *mut f32,
        lower: *mut f32,
        row_bytes: usize,
    }

    /// The loads of one tile of plane `$p`: `s` is 64, the distance of its rows.
    macro_rules! load {
        (a0, $p:literal) => {
            concat!("tileloadd tmm4, [{a} + {s} + 2048*", $p, "]")
        };
        (a1, $p:literal) => {
            concat!("tileloadd tmm5, [{a} + {s} + 2048*", $p, " + 1024]")
        };
        (b0, $p:literal) => {
            concat!("tileloadd tmm6, [{b} + {s} + 2048*", $p, "]")
        };
        (b1, $p:literal) => {
            concat!("tileloadd tmm7, [{b} + {s} + 2048*", $p, " + 1024]")
        };
    }

    /// The product of a row of tiles of A and a column of tiles of B, and the `$i`-th 24th of the lines of the next step
    /// (to L1) and of those ahead (to L2).
    macro_rules! dot {
        (@ $c:literal, $a:literal, $b:literal, $i:literal) => {
            concat!("tdpbf16ps tmm", $c, ", tmm", $a, ", tmm", $b, "\n",
                "prefetcht0 [{a} + 6144 + 256*", $i, "]\n", "prefetcht0 [{a} + 6208 + 256*", $i, "]\n",
                "prefetcht0 [{a} + 6272 + 256*", $i, "]\n", "prefetcht0 [{a} + 6336 + 256*", $i, "]\n",
                "prefetcht0 [{b} + 6144 + 256*", $i, "]\n", "prefetcht0 [{b} + 6208 + 256*", $i, "]\n",
                "prefetcht0 [{b} + 6272 + 256*", $i, "]\n", "prefetcht0 [{b} + 6336 + 256*", $i, "]\n",
                "prefetcht1 [{ahead} + 64*", $i, "]")
        };
        (0, 0, $i:literal) => { dot!(@ 0, 4, 6, $i) };
        (0, 1, $i:literal) => { dot!(@ 1, 4, 7, $i) };
        (1, 0, $i:literal) => { dot!(@ 2, 5, 6, $i) };
        (1, 1, $i:literal) => { dot!(@ 3, 5, 7, $i) };
    }

    /// One block of C, two by two tiles, from zero or (`add`) from what is there. Neighbouring products of planes share
    /// one operand, so a step loads 14 tiles for its 24 products; a tile register is loaded anew right after its last
    /// use. Each step prefetches its successor and 24 lines from `ahead` on, which moves by `stride` bytes.
    ///
    /// # Safety
    /// The tiles are configured as in [`panel`]; `a` and `b` point to `steps` x [`STEP_LINES`] lines; `steps` > 0; the
    /// rows of `c` may be written, and read with `add`.
    unsafe fn block(
        a: *const Line,
        b: *const Line,
        steps: usize,
        ahead: *const Line,
        stride: usize,
        c: Tiles,
        add: bool,
    ) {
        // SAFETY: the loads of A and B stay within `steps` x 6144 bytes, those and the stores of C within 128 bytes of
        // each of its rows. A prefetch may name any address. All tile registers are declared as overwritten.
        unsafe {
            asm!(
                "test {add:e}, {add:e}",
                "jnz 3f",
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "jmp 2f",
                "3:",
                "tileloadd tmm0, [{upper} + {row}]",
                "tileloadd tmm1, [{upper} + {row} + 64]",
                "tileloadd tmm2, [{lower} + {row}]",
                "tileloadd tmm3, [{lower} + {row} + 64]",
                ".p2align 5",
                "2:",
                load!(a0, 1), load!(b0, 1), load!(b1, 1), load!(a1, 1),
                dot!(0, 0, 0), dot!(1, 0, 1), load!(b0, 0), dot!(0, 1, 2), dot!(1, 1, 3), load!(b1, 0), // a1 b1
                dot!(0, 0, 4), dot!(0, 1, 5), load!(a0, 2), dot!(1, 0, 6), dot!(1, 1, 7), load!(a1, 2), // a1 b0
                dot!(0, 0, 8), dot!(0, 1, 9), load!(a0, 0), dot!(1, 0, 10), dot!(1, 1, 11), load!(a1, 0), // a2 b0
                dot!(0, 0, 12), dot!(1, 0, 13), load!(b0, 2), dot!(0, 1, 14), dot!(1, 1, 15), load!(b1, 2), // a0 b0
                dot!(0, 0, 16), dot!(1, 0, 17), load!(b0, 1), dot!(0, 1, 18), dot!(1, 1, 19), load!(b1, 1), // a0 b2
                dot!(0, 0, 20), dot!(0, 1, 21), dot!(1, 0, 22), dot!(1, 1, 23),                             // a0 b1
                "add {a}, 6144",
                "add {b}, 6144",
                "add {ahead}, {stride}",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{upper} + {row}], tmm0",
                "tilestored [{upper} + {row} + 64], tmm1",
                "tilestored [{lower} + {row}], tmm2",
                "tilestored [{lower} + {row} + 64], tmm3",
                a = inout(reg) a => _,
                b = inout(reg) b => _,
                ahead = inout(reg) ahead => _,
                stride = in(reg) stride,
                steps = inout(reg) steps => _,
                s = in(reg) 64usize,
                upper = in(reg) c.upper,
                lower = in(reg) c.lower,
                row = in(reg) c.row_bytes,
                add = in(reg) u32::from(add),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
