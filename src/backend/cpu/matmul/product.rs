//! How a product is cut into tasks for the threads, and into blocks and panels for the caches.

use super::amx::{Amx, Line, STEP, STEP_LINES, TILE_ROWS, WIDTH};
use super::fma::{self, PanelRow};
use super::piece::Piece;
use super::{Packed, Panels, split};
use crate::backend::cpu::pages::Pages;
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

/// Steps of 32 in a block of K for the tile unit: two panels of W over a block (6 kB a step) and the rows of X that they
/// meet share the L2 cache.
const MAX_TILE_STEPS: usize = 24;
/// The same for multiply-adds: a panel of W (4 kB a step) in the L1 cache, and chains short enough to round little.
const MAX_FMA_STEPS: usize = 8;
/// Bytes of the packed rows of X of a task: what else of 2 MB of L2 is not needed for two panels of W.
const MAX_ROWS_BYTES: usize = 1_200_000;
/// Lines that a thread keeps for them: one large page.
const ROWS_LINES: usize = (2 << 20) / size_of::<Line>();
/// Rows of a task: enough to use a panel of W, once loaded, eight times.
const MAX_ROWS: usize = 256;
/// Rows for which a panel of W is worth loading more than once.
const MIN_ROWS: usize = 128;
/// Panels of Y after which the epilogue sees their rows.
const EPILOGUE_PANELS: usize = 16;

/// What is done to a finished piece of Y: row, first column, values, and the same piece of the second output, empty if
/// there is none.
pub type Epilogue<'e> = dyn Fn(usize, usize, &mut [f32], &mut [f32]) + Sync + 'e;

/// `Y = X W^T`, in parallel on the current rayon pool.
///
/// `y` is (M,N) with `ldy` values from row to row, `x` is (M,K) with `ldx`. `epilogue(row, col0, piece)` is called
/// once for every finished piece `y[row][col0..col0 + piece.len()]`, while it is in the cache: bias, activation and
/// residual belong there. How a row is cut into pieces depends on M and on the number of threads.
///
/// # Panics
/// If a row distance is less than the row, or a matrix does not fit its slice.
pub fn product(
    y: &mut [f32],
    ldy: usize,
    x: &[f32],
    ldx: usize,
    m: usize,
    w: &Panels,
    epilogue: &(dyn Fn(usize, usize, &mut [f32]) + Sync),
) {
    run(y, None, ldy, x, ldx, m, w, &|row, col0, piece, _| epilogue(row, col0, piece));
}

/// [`product()`] with a second output laid out as Y: `epilogue(row, col0, piece, second)` fills `second`, the same
/// piece of it.
///
/// # Panics
/// As [`product()`].
pub fn product_two(
    y: &mut [f32],
    second: &mut [f32],
    ldy: usize,
    x: &[f32],
    ldx: usize,
    m: usize,
    w: &Panels,
    epilogue: &Epilogue,
) {
    run(y, Some(second), ldy, x, ldx, m, w, epilogue);
}

fn run(
    y: &mut [f32],
    second: Option<&mut [f32]>,
    ldy: usize,
    x: &[f32],
    ldx: usize,
    m: usize,
    w: &Panels,
    epilogue: &Epilogue,
) {
    check_matrix("X", x.len(), ldx, m, w.k);
    let mut y = Piece::new(y, m, w.n, ldy);
    let mut second = second.map(|second| Piece::new(second, m, w.n, ldy));
    if m == 0 || w.n == 0 {
        return;
    }
    let blocks = blocks(w);
    let (row_parts, column_parts) = partition(m, w, blocks[0].len());
    let panels = w.n.div_ceil(WIDTH);
    let mut tasks = Vec::with_capacity(row_parts * column_parts);
    for part in 0..row_parts {
        let rows = part * m / row_parts..(part + 1) * m / row_parts;
        let (mut y_rows, mut second_rows);
        (y_rows, y) = y.split_rows(rows.len());
        (second_rows, second) = second.map(|second| second.split_rows(rows.len())).unzip();
        for part in 0..column_parts {
            let panels = part * panels / column_parts..(part + 1) * panels / column_parts;
            let columns = (panels.end * WIDTH).min(w.n) - panels.start * WIDTH;
            let (y_piece, second_piece);
            (y_piece, y_rows) = y_rows.split_columns(columns);
            (second_piece, second_rows) = second_rows.map(|second| second.split_columns(columns)).unzip();
            tasks.push(Task { row0: rows.start, panels, y: y_piece, second: second_piece });
        }
    }
    tasks.into_par_iter().for_each(|task| task.run(x, ldx, w, &blocks, epilogue));
}

/// The blocks of K, in steps of 32: as equal as they can be. They depend on K and the kernel alone, as the sums' bits
/// do on them.
fn blocks(w: &Panels) -> Vec<Range<usize>> {
    let most = match w.packed {
        Packed::Amx(..) => MAX_TILE_STEPS,
        Packed::Fma(..) => MAX_FMA_STEPS,
    };
    let steps = w.k.div_ceil(STEP);
    let count = steps.div_ceil(most);
    let length = steps.div_ceil(count);
    (0..count).map(|block| block * length..((block + 1) * length).min(steps)).collect()
}

/// Into how many parts rows and panels are cut. A task's rows fit the cache; there is a task for every thread, by rows
/// as long as they are many, as two tasks of the same rows both split their values.
fn partition(m: usize, w: &Panels, block_steps: usize) -> (usize, usize) {
    let threads = rayon::current_num_threads();
    let row_bytes = block_steps * STEP * size_of::<[u16; 3]>();
    let rows = (MAX_ROWS_BYTES / row_bytes).min(MAX_ROWS);
    let parts = m.div_ceil(rows).max(threads.min(m / MIN_ROWS));
    if parts >= threads {
        (parts.next_multiple_of(threads).min(m), 1)
    } else {
        (parts, threads.div_ceil(parts).min(w.n.div_ceil(WIDTH)))
    }
}

/// Panics unless a matrix (rows, columns) with `ld` values from row to row fits `len` values.
pub(super) fn check_matrix(name: &str, len: usize, ld: usize, rows: usize, columns: usize) {
    let needed = rows.checked_sub(1).map_or(Some(0), |above| above.checked_mul(ld)?.checked_add(columns));
    assert!(
        ld >= columns && needed.is_some_and(|needed| needed <= len),
        "{name} ({rows},{columns}), rows {ld} apart, does not fit {len} values"
    );
}

/// Some rows and panels of Y, computed by one thread.
struct Task<'y> {
    row0: usize,
    panels: Range<usize>,
    /// Its part of Y: the columns of `panels`.
    y: Piece<'y>,
    /// The same part of the second output.
    second: Option<Piece<'y>>,
}

thread_local! {
    /// The packed rows of X of a thread's task, at most [`MAX_ROWS_BYTES`] whatever M and K are. A task takes the lines
    /// and puts them back, so that an epilogue may itself call [`product`].
    static ROWS: Cell<Option<Pages<Line>>> = const { Cell::new(None) };
}

impl Task<'_> {
    /// Computes the task's part of Y.
    fn run(mut self, x: &[f32], ldx: usize, w: &Panels, blocks: &[Range<usize>], epilogue: &Epilogue) {
        let x: Vec<&[f32]> = (self.row0..).take(self.y.rows()).map(|row| &x[row * ldx..][..w.k]).collect();
        match &w.packed {
            Packed::Amx(amx, lines) => self.run_tiles(&x, *amx, lines, w.k.div_ceil(STEP), blocks, epilogue),
            Packed::Fma(rows) => self.run_multiply_adds(&x, rows, w.k, blocks, epilogue),
        }
    }

    /// By the tile unit: the rows of X are packed for a block of K and meet all panels of W.
    fn run_tiles(
        &mut self,
        x: &[&[f32]],
        amx: Amx,
        w: &[Line],
        steps: usize,
        blocks: &[Range<usize>],
        epilogue: &Epilogue,
    ) {
        let tile_rows = tile_rows(x.len());
        let lines = |steps: usize| x.len().div_ceil(2 * tile_rows) * steps * STEP_LINES;
        let most = lines(blocks[0].len());
        let mut rows =
            ROWS.take().filter(|rows| rows.len() >= most).unwrap_or_else(|| Pages::zeroed(most.max(ROWS_LINES)));
        for (i, block) in blocks.iter().enumerate() {
            let packed = &mut rows[..lines(block.len())];
            split::pack_rows(packed, x, block.start * STEP, block.len(), tile_rows);
            for panel in self.panels.clone() {
                let (w, rest) = w[(panel * steps + block.start) * STEP_LINES..].split_at(block.len() * STEP_LINES);
                let next = (steps - block.len()) * STEP_LINES;
                let ahead = rest.get(next..next + w.len()).unwrap_or_default();
                let column = (panel - self.panels.start) * WIDTH;
                amx.panel(tile_rows, packed, w, ahead, &mut self.y, column, i > 0);
                if i + 1 == blocks.len() {
                    self.finish(panel, epilogue);
                }
            }
        }
        ROWS.set(Some(rows));
    }

    /// By multiply-adds: a panel of W meets the rows of X block by block.
    fn run_multiply_adds(
        &mut self,
        x: &[&[f32]],
        w: &[PanelRow],
        k: usize,
        blocks: &[Range<usize>],
        epilogue: &Epilogue,
    ) {
        let mut sums = [[0.0; WIDTH]; fma::ROWS];
        for panel in self.panels.clone() {
            for block in blocks {
                let (start, end) = (block.start * STEP, k.min(block.end * STEP));
                let w = &w[panel * k..][start..end];
                let column = (panel - self.panels.start) * WIDTH;
                for (chunk, x) in x.chunks(fma::ROWS).enumerate() {
                    // Where rows are missing the last one is computed again.
                    fma::block(std::array::from_fn(|i| &x[i.min(x.len() - 1)][start..]), w, &mut sums);
                    for (i, sums) in sums.iter().enumerate() {
                        self.y.put(chunk * fma::ROWS + i, column, sums, block.start > 0);
                    }
                }
            }
            self.finish(panel, epilogue);
        }
    }

    /// After every sixteenth finished panel and the last: hands the columns since then to the epilogue, row by row.
    fn finish(&mut self, panel: usize, epilogue: &Epilogue) {
        let done = panel + 1 - self.panels.start;
        if !done.is_multiple_of(EPILOGUE_PANELS) && panel + 1 < self.panels.end {
            return;
        }
        let start = (done - 1) / EPILOGUE_PANELS * EPILOGUE_PANELS * WIDTH;
        let column0 = self.panels.start * WIDTH + start;
        for i in 0..self.y.rows() {
            let columns = start..self.y.columns().min(done * WIDTH);
            let second = self.second.as_mut().map_or(&mut [][..], |second| &mut second.row(i)[columns.clone()]);
            epilogue(self.row0 + i, column0, &mut self.y.row(i)[columns], second);
        }
    }
}

/// Rows of a tile, such that `rows` of them fill an even number of tiles with as few rows to spare as can be: a tile
/// product takes a cycle per row.
fn tile_rows(rows: usize) -> usize {
    rows.div_ceil(2 * rows.div_ceil(2 * TILE_ROWS))
}
