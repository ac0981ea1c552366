//! The product of small strided matrices, as attention needs it for each head: one thread, the `gemm` crate.

/// f32 or f64.
pub trait Element: Copy + PartialEq + private::Sealed + 'static {
    /// 0.
    const ZERO: Self;
}

impl Element for f32 {
    const ZERO: Self = 0.0;
}

impl Element for f64 {
    const ZERO: Self = 0.0;
}

mod private {
    /// Nothing but f32 and f64: the types that `gemm` is called with.
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// Where the elements of a matrix stand in its slice: `data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy, Debug)]
struct Layout {
    rows: usize,
    columns: usize,
    row_stride: isize,
    column_stride: isize,
}

impl Layout {
    /// # Panics
    /// If the last element is past the end of `len` values.
    fn new(len: usize, rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> Self {
        if rows > 0 && columns > 0 {
            let row = (rows - 1).checked_mul(row_stride);
            let column = (columns - 1).checked_mul(column_stride);
            let last = row.zip(column).and_then(|(row, column)| row.checked_add(column));
            assert!(
                last.is_some_and(|last| last < len),
                "a ({rows},{columns}) matrix with strides {row_stride}, {column_stride} does not fit {len} values"
            );
        }
        // A stride that does not fit an isize belongs to a single row or column, and is never used.
        let stride = |stride: usize| isize::try_from(stride).unwrap_or(0);
        Layout { rows, columns, row_stride: stride(row_stride), column_stride: stride(column_stride) }
    }
}

/// A strided matrix to read.
#[derive(Clone, Copy)]
pub struct Mat<'a, T> {
    data: &'a [T],
    layout: Layout,
}

impl<'a, T: Element> Mat<'a, T> {
    /// The (rows, columns) matrix with the elements `data[i * row_stride + j * column_stride]`.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a [T], rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> Self {
        Mat { data, layout: Layout::new(data.len(), rows, columns, row_stride, column_stride) }
    }

    /// The transposed matrix.
    pub fn t(self) -> Self {
        let Layout { rows, columns, row_stride, column_stride } = self.layout;
        let layout = Layout { rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride };
        Mat { data: self.data, layout }
    }
}

/// A strided matrix to write.
pub struct MatMut<'a, T> {
    data: &'a mut [T],
    layout: Layout,
}

impl<'a, T: Element> MatMut<'a, T> {
    /// The (rows, columns) matrix with the elements `data[i * row_stride + j * column_stride]`.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn new(data: &'a mut [T], rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> Self {
        let layout = Layout::new(data.len(), rows, columns, row_stride, column_stride);
        MatMut { data, layout }
    }
}

/// `c = alpha a b + beta c` on the calling thread. With `beta` = 0, `c` is not read.
///
/// # Panics
/// If the shapes do not fit: a (m,k), b (k,n), c (m,n).
pub fn gemm_small<T: Element>(alpha: T, a: Mat<'_, T>, b: Mat<'_, T>, beta: T, c: MatMut<'_, T>) {
    let (m, k, n) = (a.layout.rows, a.layout.columns, b.layout.columns);
    assert!(
        b.layout.rows == k && c.layout.rows == m && c.layout.columns == n,
        "({m},{k}) x ({},{n}) does not give ({},{})",
        b.layout.rows,
        c.layout.rows,
        c.layout.columns
    );
    // SAFETY: T is f32 or f64, which `gemm` knows. The three layouts were checked against their slices, whose borrows
    // live through the call; `c` is borrowed mutably, so nothing else reads or writes it.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.data.as_mut_ptr(),
            c.layout.column_stride,
            c.layout.row_stride,
            beta != T::ZERO,
            a.data.as_ptr(),
            a.layout.column_stride,
            a.layout.row_stride,
            b.data.as_ptr(),
            b.layout.column_stride,
            b.layout.row_stride,
            beta,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
