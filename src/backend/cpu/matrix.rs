//! Weight matrices and their products, by number type: f64 in plain loops, f32 as fast as the machine can.

use std::sync::OnceLock;

use rayon::prelude::*;

use super::{
    Real,
    layer_norm::exact_sum,
    matmul::{self, Kernel, Mat, MatMut, Panels},
};

/// Called once for every finished piece of a row: (row, first column, values).
pub type Finish<'a, T> = &'a (dyn Fn(usize, usize, &mut [T]) + Sync);

/// The same with the piece of a second output: (row, first column, values, second).
pub type FinishTwo<'a, T> = &'a (dyn Fn(usize, usize, &mut [T], &mut [T]) + Sync);

/// A number type together with its matrix products.
pub trait Number: Real {
    /// W (n,k) prepared for products.
    type Matrix: Send + Sync;

    /// Prepares row-major values.
    fn matrix(n: usize, k: usize, values: Vec<f32>) -> Self::Matrix;

    /// `y` (m,n) = `x` (m,k) W^T; rows of `x` are `stride` apart.
    fn product(y: &mut [Self], x: &[Self], stride: usize, m: usize, w: &Self::Matrix, finish: Finish<'_, Self>);

    /// [`Number::product`] with a second output beside `y`, both (m,n), that `finish` fills.
    fn product_two(
        y: &mut [Self],
        second: &mut [Self],
        x: &[Self],
        stride: usize,
        m: usize,
        w: &Self::Matrix,
        finish: FinishTwo<'_, Self>,
    );

    /// `dx` (m,k) = `dy` (m,n) W.
    fn product_reverse(dx: &mut [Self], dy: &[Self], m: usize, w: &Self::Matrix, finish: Finish<'_, Self>);

    /// `c` (m,n) = `scale` `a` (m,k) `b` (k,n), on the calling thread.
    fn small_product(c: MatMut<'_, Self>, a: Mat<'_, Self>, b: Mat<'_, Self>, scale: f64);

    /// Bytes that W (n,k) takes, forward only or with its reverse.
    fn matrix_bytes(n: usize, k: usize, reverse: bool) -> usize;
}

/// Row-major values for the plain loops.
#[derive(Debug)]
pub struct PlainMatrix<T> {
    n: usize,
    k: usize,
    values: Vec<T>,
}

impl Number for f64 {
    type Matrix = PlainMatrix<f64>;

    fn matrix(n: usize, k: usize, values: Vec<f32>) -> Self::Matrix {
        PlainMatrix { n, k, values: values.into_iter().map(f64::from).collect() }
    }

    fn product(y: &mut [f64], x: &[f64], stride: usize, m: usize, w: &Self::Matrix, finish: Finish<'_, f64>) {
        y[..m * w.n].par_chunks_mut(w.n).enumerate().for_each(|(i, y)| {
            let x = &x[i * stride..][..w.k];
            for (y, w) in y.iter_mut().zip(w.values.chunks(w.k)) {
                *y = exact_sum(x.iter().zip(w).map(|(x, w)| x * w));
            }
            finish(i, 0, y);
        });
    }

    fn product_two(
        y: &mut [f64],
        second: &mut [f64],
        x: &[f64],
        stride: usize,
        m: usize,
        w: &Self::Matrix,
        finish: FinishTwo<'_, f64>,
    ) {
        Self::product(y, x, stride, m, w, &|_, _, _| ());
        let rows = y.chunks_mut(w.n).zip(second.chunks_mut(w.n)).take(m);
        rows.enumerate().for_each(|(i, (y, second))| finish(i, 0, y, second));
    }

    fn product_reverse(dx: &mut [f64], dy: &[f64], m: usize, w: &Self::Matrix, finish: Finish<'_, f64>) {
        dx[..m * w.k].par_chunks_mut(w.k).enumerate().for_each(|(i, dx)| {
            let dy = &dy[i * w.n..][..w.n];
            for (j, dx) in dx.iter_mut().enumerate() {
                *dx = exact_sum(dy.iter().zip(w.values[j..].iter().step_by(w.k)).map(|(dy, w)| dy * w));
            }
            finish(i, 0, dx);
        });
    }

    fn small_product(mut c: MatMut<'_, f64>, a: Mat<'_, f64>, b: Mat<'_, f64>, scale: f64) {
        for i in 0..a.rows() {
            for (j, c) in c.row(i).iter_mut().enumerate() {
                *c = scale * exact_sum((0..a.columns()).map(|l| a.at(i, l) * b.at(l, j)));
            }
        }
    }

    fn matrix_bytes(n: usize, k: usize, _: bool) -> usize {
        n * k * size_of::<f64>()
    }
}

/// Packed values for the fast products; those of the reverse are packed when a reverse first needs them.
pub struct PackedMatrix {
    forward: Panels,
    reverse: OnceLock<Panels>,
}

impl PackedMatrix {
    fn reverse(&self) -> &Panels {
        self.reverse.get_or_init(|| {
            let w = &self.forward;
            // dX = dY W: the reverse multiplies with the transpose of W^T, whose rows are the columns of W.
            Panels::from_columns(w.k(), w.n(), &w.to_rows(), Kernel::best())
        })
    }
}

impl Number for f32 {
    type Matrix = PackedMatrix;

    fn matrix(n: usize, k: usize, values: Vec<f32>) -> Self::Matrix {
        PackedMatrix { forward: Panels::from_rows(n, k, &values, Kernel::best()), reverse: OnceLock::new() }
    }

    fn product(y: &mut [f32], x: &[f32], stride: usize, m: usize, w: &Self::Matrix, finish: Finish<'_, f32>) {
        matmul::product(y, w.forward.n(), x, stride, m, &w.forward, finish);
    }

    fn product_two(
        y: &mut [f32],
        second: &mut [f32],
        x: &[f32],
        stride: usize,
        m: usize,
        w: &Self::Matrix,
        finish: FinishTwo<'_, f32>,
    ) {
        matmul::product_two(y, second, w.forward.n(), x, stride, m, &w.forward, finish);
    }

    fn product_reverse(dx: &mut [f32], dy: &[f32], m: usize, w: &Self::Matrix, finish: Finish<'_, f32>) {
        matmul::product(dx, w.forward.k(), dy, w.forward.n(), m, w.reverse(), finish);
    }

    fn small_product(c: MatMut<'_, f32>, a: Mat<'_, f32>, b: Mat<'_, f32>, scale: f64) {
        matmul::gemm_small(c, a, b, scale as f32);
    }

    fn matrix_bytes(n: usize, k: usize, reverse: bool) -> usize {
        let forward = Panels::packed_bytes(n, k, Kernel::best());
        forward + if reverse { Panels::packed_bytes(k, n, Kernel::best()) } else { 0 }
    }
}
