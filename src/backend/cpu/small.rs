//! Products of small strided matrices, for attention: one thread, one head.

use super::Number;

/// A matrix with strides.
#[derive(Debug, Clone, Copy)]
pub struct Strided<'a, T> {
    /// Its values, from its first element on.
    pub values: &'a [T],
    /// From a row to the next.
    pub row: usize,
    /// From a column to the next.
    pub col: usize,
}

impl<'a, T> Strided<'a, T> {
    /// Dense rows of `width` values.
    pub fn rows(values: &'a [T], width: usize) -> Self {
        Strided { values, row: width, col: 1 }
    }

    /// The transposed matrix.
    pub fn transposed(self) -> Self {
        Strided { values: self.values, row: self.col, col: self.row }
    }

    /// Without its first `row` rows.
    pub fn from_row(self, row: usize) -> Self {
        Strided { values: &self.values[row * self.row..], ..self }
    }
}

/// A matrix to write, whose columns are adjacent.
#[derive(Debug)]
pub struct StridedMut<'a, T> {
    /// Its values, from its first element on.
    pub values: &'a mut [T],
    /// From a row to the next.
    pub row: usize,
}

impl<'a, T> StridedMut<'a, T> {
    /// Dense rows of `width` values.
    pub fn rows(values: &'a mut [T], width: usize) -> Self {
        StridedMut { values, row: width }
    }
}

/// `c` (m,n) = `scale` `a` (m,k) `b` (k,n).
pub fn product<T: Number>(
    c: StridedMut<'_, T>,
    a: Strided<'_, T>,
    b: Strided<'_, T>,
    m: usize,
    n: usize,
    k: usize,
    scale: f64,
) {
    T::small_product(c, a, b, m, n, k, scale);
}
