//! The product of small strided matrices, as attention needs it for each head: one thread, the `gemm` crate.

/// A strided matrix to read: element (i,j) is `data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

/// Whether the last element of a matrix lies inside `len` values.
fn fits(len: usize, rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * row_stride + (columns - 1) * column_stride < len
}

impl<'a, T: Copy> Mat<'a, T> {
    /// Rows `row_stride` apart.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, columns, row_stride, 1), "({rows},{columns}) by {row_stride} in {}", data.len());
        Mat { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The transposed matrix.
    pub fn t(self) -> Self {
        Mat {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Element (i,j).
    pub fn at(&self, i: usize, j: usize) -> T {
        self.data[i * self.row_stride + j * self.column_stride]
    }
}

/// A matrix to write, rows `row_stride` apart, columns adjacent.
#[derive(Debug)]
pub struct MatMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
}

impl<'a, T> MatMut<'a, T> {
    /// Rows `row_stride` apart.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a mut [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, columns, row_stride, 1), "({rows},{columns}) by {row_stride} in {}", data.len());
        MatMut { data, rows, columns, row_stride }
    }

    /// Row `i`.
    pub fn row(&mut self, i: usize) -> &mut [T] {
        &mut self.data[i * self.row_stride..][..self.columns]
    }
}

/// `c` (m,n) = `scale` `a` (m,k) `b` (k,n) on the calling thread.
///
/// # Panics
/// If the shapes do not fit.
pub fn gemm_small(c: MatMut<'_, f32>, a: Mat<'_, f32>, b: Mat<'_, f32>, scale: f32) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert!(
        b.rows == k && c.rows == m && c.columns == n,
        "({m},{k}) x ({},{n}) gives no ({},{})",
        b.rows,
        c.rows,
        c.columns
    );
    // SAFETY: the three layouts were checked against their slices, whose borrows live through the call; `c` is borrowed
    // mutably, so nothing else reads or writes it. Strides of a slice fit an isize.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.data.as_mut_ptr(),
            1,
            c.row_stride as isize,
            false,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            0.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
