//! A part of the result: some rows and some columns of a matrix. The tasks of a product hold parts that do not overlap,
//! which no slice can say of columns.

use super::amx::WIDTH;
use std::marker::PhantomData;

/// Rows x columns of a matrix, borrowed to write.
pub(super) struct Piece<'y> {
    start: *mut f32,
    rows: usize,
    columns: usize,
    /// Values from row to row.
    ld: usize,
    borrow: PhantomData<&'y mut [f32]>,
}

// SAFETY: a piece is an exclusive borrow of its values, like the `&mut [f32]` that it was cut from.
unsafe impl Send for Piece<'_> {}

impl<'y> Piece<'y> {
    /// A whole matrix, rows `ld` apart.
    ///
    /// # Panics
    /// If it does not fit `values`.
    pub fn new(values: &'y mut [f32], rows: usize, columns: usize, ld: usize) -> Self {
        super::product::check_matrix("Y", values.len(), ld, rows, columns);
        Piece { start: values.as_mut_ptr(), rows, columns, ld, borrow: PhantomData }
    }

    /// The first `at` rows and the others.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split_rows(self, at: usize) -> (Self, Self) {
        assert!(at <= self.rows);
        // Behind the last row nothing of the matrix follows: the pointer is only computed, never read.
        let below = self.start.wrapping_add(at * self.ld);
        (Piece { rows: at, ..self }, Piece { start: below, rows: self.rows - at, ..self })
    }

    /// The first `at` columns and the others.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split_columns(self, at: usize) -> (Self, Self) {
        assert!(at <= self.columns);
        let behind = self.start.wrapping_add(at);
        (Piece { columns: at, ..self }, Piece { start: behind, columns: self.columns - at, ..self })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Values from row to row.
    pub fn ld(&self) -> usize {
        self.ld
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If there is none.
    pub fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows);
        // SAFETY: row `i` lies in the matrix (checked in `new`), whose borrow this piece holds for these columns alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(i * self.ld), self.columns) }
    }

    /// Where `rows` x `columns` values begin at (row, column), if all of them lie in this piece.
    pub fn block(&mut self, row: usize, column: usize, rows: usize, columns: usize) -> Option<*mut f32> {
        let inside = row + rows <= self.rows && column + columns <= self.columns;
        inside.then(|| self.start.wrapping_add(row * self.ld + column))
    }

    /// Writes the sums of row `i` from `column` on, or adds them to what is there; past the last row and column they
    /// are left out.
    #[inline(always)]
    pub fn put(&mut self, i: usize, column: usize, sums: &[f32; WIDTH], add: bool) {
        if i >= self.rows {
            return;
        }
        let y = &mut self.row(i)[column..];
        match y.first_chunk_mut::<WIDTH>() {
            // A constant length, and all loads before all stores: for the compiler's sake.
            Some(y) if add => *y = std::array::from_fn(|j| y[j] + sums[j]),
            Some(y) => *y = *sums,
            None if add => y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum),
            None => y.iter_mut().zip(sums).for_each(|(y, sum)| *y = *sum),
        }
    }
}
