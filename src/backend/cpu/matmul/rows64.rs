//! The judge: the same product in f64, by plain loops.

use super::product::check_matrix;
use rayon::prelude::*;

/// Partial sums of a dot product, so that the compiler may use vectors and rounding errors stay small.
const LANES: usize = 8;
/// Rows of X that share a row of W while it is in the cache.
const ROWS: usize = 4;

/// A weight matrix W (N,K) in f64, row-major.
pub struct Rows64 {
    n: usize,
    k: usize,
    w: Vec<f64>,
}

impl Rows64 {
    /// W, given as `w` (N,K) row-major, for `Y = X W^T`.
    ///
    /// # Panics
    /// If `w` is not N x K long.
    pub fn from_rows(n: usize, k: usize, w: Vec<f64>) -> Self {
        assert_eq!(w.len(), n * k, "W is ({n},{k})");
        Rows64 { n, k, w }
    }

    /// W (N,K), given as its transpose `w` (K,N) row-major: `Y = X w`.
    ///
    /// # Panics
    /// If `w` is not K x N long.
    pub fn from_columns(n: usize, k: usize, w: &[f64]) -> Self {
        assert_eq!(w.len(), n * k, "W^T is ({k},{n})");
        Rows64 { n, k, w: (0..n * k).map(|i| w[i % k * n + i / k]).collect() }
    }

    /// N, the columns of Y.
    pub fn n(&self) -> usize {
        self.n
    }

    /// K, the columns of X.
    pub fn k(&self) -> usize {
        self.k
    }

    /// W (N,K), row-major.
    pub fn rows(&self) -> &[f64] {
        &self.w
    }

    /// `Y = X W^T`: as [`product`](super::product()), in f64. Every element is summed in the same order, so its bits
    /// do not depend on M, on the row's position or on the threads.
    ///
    /// # Panics
    /// If a row distance is less than the row, or a matrix does not fit its slice.
    pub fn product(
        &self,
        y: &mut [f64],
        ldy: usize,
        x: &[f64],
        ldx: usize,
        m: usize,
        epilogue: &(dyn Fn(usize, usize, &mut [f64]) + Sync),
    ) {
        check_matrix("X", x.len(), ldx, m, self.k);
        check_matrix("Y", y.len(), ldy, m, self.n);
        if m == 0 || self.n == 0 {
            return;
        }
        let rows: Vec<&mut [f64]> = y.chunks_mut(ldy).take(m).map(|row| &mut row[..self.n]).collect();
        rows.into_par_iter().chunks(ROWS).enumerate().for_each(|(chunk, mut rows)| {
            let row0 = chunk * ROWS;
            for (column, w) in (0..self.n).map(|n| (n, &self.w[n * self.k..][..self.k])) {
                for (i, row) in rows.iter_mut().enumerate() {
                    row[column] = dot(&x[(row0 + i) * ldx..][..self.k], w);
                }
            }
            for (i, row) in rows.into_iter().enumerate() {
                epilogue(row0 + i, 0, row);
            }
        });
    }
}

/// The scalar product of two slices of one length.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a_lanes, a_tail) = a.as_chunks::<LANES>();
    let (b_lanes, b_tail) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let tail: f64 = a_tail.iter().zip(b_tail).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + tail
}
