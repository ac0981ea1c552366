//! The matrix product of the CPU backend: `Y = X W^T` with the weights packed once, in f32, as fast as the machine can.
//!
//! Two kernels, chosen at run time ([`Kernel::best`]):
//!
//! * [`Kernel::Amx`]: the tile unit of Intel CPUs multiplies bf16 at 16 times the rate of f32 multiply-adds. Each f32
//!   is split exactly into three bf16 (`split.rs`), and six of the nine products of parts are summed in f32; the three
//!   left out are under 2^-24 of the product together (2^-27 as a rule), and have no preferred sign.
//! * [`Kernel::Fma`]: vector multiply-adds (`fma.rs`) everywhere else.
//!
//! [`gemm_small`] is the strided product of attention.
//!
//! # Same input, same bits
//! A row of Y depends only on its row of X, on W and on the kernel: not on M, on the row's position or on the number of
//! threads. K is cut into blocks by its length alone, and within a block each row is summed by itself.
//!
//! # Numbers that are not ordinary
//! Both kernels: a NaN, or an infinity times zero, gives NaN; an infinity gives an infinity or NaN. The tile unit has
//! no denormals: values under 2^-126 count as zero, and the relative error grows for factors under 2^-103 (`split.rs`).
//!
//! # Speed
//! Predicted before measuring: six products at 16 times the rate of multiply-adds are at most 2.67 times their peak;
//! 280 GFLOP/s should remain on one core and 540 on two.
//!
//! Measured on a Xeon of the Sapphire Rapids class, 2 cores shared with other work, in GFLOP/s, the best of many calls
//! over several builds during tuning (`cargo bench --bench matmul` has the same shapes). The tile unit alone: 2990 in
//! bf16, so 498 for six products. A block of C with its loads: 346, with prefetches 380. Packing X, copying C and
//! fetching W from L3 cost the rest.
//!
//! | M x K x N | tiles, 1 core | 2 cores | multiply-adds, 1 core | 2 cores | `gemm` crate, 1 core | 2 cores |
//! |---|---|---|---|---|---|---|
//! | 800 x 768 x 768 | 273 | 598 | 118 | 226 | 142 | 240 |
//! | 800 x 768 x 3072 | 278 | 582 | 113 | 204 | 158 | 294 |
//! | 800 x 3072 x 768 | 270 | 551 | 102 | 197 | 157 | 228 |
//! | 257 x 1024 x 4096 | 249 | 520 | 96 | 206 | 123 | 231 |
//! | 50 x 768 x 3072 | 228 | 453 | 76 | 159 | 74 | 155 |
//! | 1 x 768 x 3072 | 9 | 15 | 10 | 18 | 14 | 14 |

mod amx;
mod fma;
mod piece;
mod product;
mod small;
mod split;
#[cfg(test)]
mod tests;

use super::pages::Pages;
use amx::{Amx, Line, STEP, STEP_LINES, WIDTH};
use fma::PanelRow;
use rayon::prelude::*;

pub use product::{Epilogue, product, product_two};
pub use small::{Mat, MatMut, gemm_small};

/// Which instructions compute a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The tile unit of Intel CPUs; the value inside is the proof that there is one.
    Amx(Amx),
    /// Vector multiply-adds.
    Fma,
}

impl Kernel {
    /// The fastest kernel of this machine.
    pub fn best() -> Self {
        Self::amx().unwrap_or(Kernel::Fma)
    }

    /// The tile unit, if the CPU has one and the kernel lets this process use it.
    pub fn amx() -> Option<Self> {
        Amx::detect().map(Kernel::Amx)
    }
}

/// A weight matrix W (N,K), packed once for [`product()`]. It replaces the f32 weights.
pub struct Panels {
    n: usize,
    k: usize,
    packed: Packed,
}

/// 32 columns of Y (rows of W) after the other, zeros past N.
enum Packed {
    /// Panel x step of 32 along K x [`STEP_LINES`]; zeros past K. 6 bytes per weight.
    Amx(Amx, Pages<Line>),
    /// Panel x K. 4 bytes per weight.
    Fma(Pages<PanelRow>),
}

impl Panels {
    /// Packs W, given as `w` (N,K) row-major, for `Y = X W^T`.
    ///
    /// # Panics
    /// If `w` is not N x K long, or K is 0.
    pub fn from_rows(n: usize, k: usize, w: &[f32], kernel: Kernel) -> Self {
        assert!(k > 0 && w.len() == n * k, "W is ({n},{k}), and given are {} values", w.len());
        Self::pack(n, k, kernel, |row, column| w[row * k + column])
    }

    /// Packs W (N,K), given as its transpose `w` (K,N) row-major: `Y = X w`.
    ///
    /// # Panics
    /// If `w` is not K x N long, or K is 0.
    pub fn from_columns(n: usize, k: usize, w: &[f32], kernel: Kernel) -> Self {
        assert!(k > 0 && w.len() == n * k, "W^T is ({k},{n}), and given are {} values", w.len());
        Self::pack(n, k, kernel, |row, column| w[column * n + row])
    }

    /// Packs W (N,K) from `weight(n, k)`.
    fn pack(n: usize, k: usize, kernel: Kernel, weight: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        let padded = |row: usize, column: usize| if row < n && column < k { weight(row, column) } else { 0.0 };
        let panels = n.div_ceil(WIDTH);
        let packed = match kernel {
            Kernel::Amx(amx) => {
                let panel_lines = k.div_ceil(STEP) * STEP_LINES;
                let mut lines = Pages::<Line>::zeroed(panels * panel_lines);
                lines.par_chunks_exact_mut(panel_lines).enumerate().for_each(|(panel, lines)| {
                    split::pack_panel(lines, |k, column| padded(panel * WIDTH + column, k));
                });
                Packed::Amx(amx, lines)
            }
            Kernel::Fma => {
                let mut rows = Pages::<PanelRow>::zeroed(panels * k);
                rows.par_chunks_exact_mut(k).enumerate().for_each(|(panel, rows)| {
                    for (k, row) in rows.iter_mut().enumerate() {
                        row.0 = std::array::from_fn(|column| padded(panel * WIDTH + column, k));
                    }
                });
                Packed::Fma(rows)
            }
        };
        Panels { n, k, packed }
    }

    /// N, the columns of Y.
    pub fn n(&self) -> usize {
        self.n
    }

    /// K, the columns of X.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The bytes that W (N,K) takes packed for `kernel`.
    pub fn packed_bytes(n: usize, k: usize, kernel: Kernel) -> usize {
        let panels = n.div_ceil(WIDTH);
        match kernel {
            Kernel::Amx(_) => panels * k.div_ceil(STEP) * STEP_LINES * size_of::<Line>(),
            Kernel::Fma => panels * k * size_of::<PanelRow>(),
        }
    }

    /// The bytes of the packed weights.
    pub fn bytes(&self) -> usize {
        match &self.packed {
            Packed::Amx(_, lines) => size_of_val(&lines[..]),
            Packed::Fma(rows) => size_of_val(&rows[..]),
        }
    }

    /// W (N,K), row-major, as it was packed. Packed for the tile unit, values under 2^-110 come back within 2^-133 and
    /// zeros without their sign.
    pub fn to_rows(&self) -> Vec<f32> {
        let mut w = vec![0.0; self.n * self.k];
        w.par_chunks_exact_mut(self.k).enumerate().for_each(|(n, row)| {
            let (panel, column) = (n / WIDTH, n % WIDTH);
            for (k, weight) in row.iter_mut().enumerate() {
                *weight = match &self.packed {
                    Packed::Amx(_, lines) => {
                        split::unpack(&lines[panel * self.k.div_ceil(STEP) * STEP_LINES..], k, column)
                    }
                    Packed::Fma(rows) => rows[panel * self.k + k].0[column],
                };
            }
        });
        w
    }
}
