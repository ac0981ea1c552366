//! Linear layers with what follows them fused into the pass over the output.

use super::{Number, activation};
use crate::weights::Activation;

/// What follows, with its tensors at hand.
#[derive(Debug)]
pub enum After<'a, T> {
    /// Nothing.
    None,
    /// Rows to add, `stride` apart.
    Residual(&'a [T], usize),
    /// The activation; `u` (n,out) is kept.
    KeepActivation(Activation, &'a mut [T]),
    /// The activation; its input is not kept.
    Activation(Activation),
}

/// `y` (n,out) from `x` (n,in).
pub fn forward<T: Number>(y: &mut [T], x: &[T], weight: &T::Matrix, bias: Option<&[T]>, after: After<'_, T>, n: usize) {
    let width = x.len() / n;
    let add_bias = |col: usize, y: &mut [T]| {
        if let Some(bias) = bias {
            y.iter_mut().zip(&bias[col..]).for_each(|(y, &b)| *y += b);
        }
    };
    match after {
        After::None => T::product(y, x, width, n, weight, &|_, col, y| add_bias(col, y)),
        After::Residual(residual, row_stride) => T::product(y, x, width, n, weight, &|row, col, y| {
            add_bias(col, y);
            y.iter_mut().zip(&residual[row * row_stride + col..]).for_each(|(y, &r)| *y += r);
        }),
        After::Activation(kind) => T::product(y, x, width, n, weight, &|_, col, y| {
            add_bias(col, y);
            activation::forward(kind, y);
        }),
        After::KeepActivation(kind, u) => {
            T::product_two(u, y, x, width, n, weight, &|_, col, u, y| {
                add_bias(col, u);
                y.copy_from_slice(u);
                activation::forward(kind, y);
            });
        }
    }
}

/// `dx` (g,in) from `dy` (g,out). With an activation, `dx` is multiplied with its slope at `u` (rows,in), row `g % rows`.
pub fn reverse<T: Number>(
    dx: &mut [T],
    dy: &[T],
    weight: &T::Matrix,
    after: Option<(Activation, &[T], usize)>,
    g: usize,
) {
    let width = dx.len() / g;
    match after {
        None => T::product_reverse(dx, dy, g, weight, &|_, _, _| ()),
        Some((kind, u, rows)) => T::product_reverse(dx, dy, g, weight, &|row, col, dx| {
            activation::reverse(kind, dx, &u[(row % rows) * width + col..][..dx.len()]);
        }),
    }
}
