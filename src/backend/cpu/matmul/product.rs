//! How a product is cut into tasks for the threads, and into blocks and panels for the caches.

use super::amx::{Amx, Line, STEP, STEP_LINES, TILE_ROWS, WIDTH};
use super::fma::{self, PanelRow};
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
const EPILOGUE_PANELS: usize = 8;

/// What is done to a finished piece of Y: row, first column, values.
type Epilogue<'e> = dyn Fn(usize, usize, &mut [f32]) + Sync + 'e;

/// `Y = X W^T`, in parallel on the current rayon pool.
///
/// `y` is (M,N) with `ldy` values from row to row, `x` is (M,K) with `ldx`. `epilogue(row, col0, piece)` is called
/// once for every finished piece `y[row][col0..col0 + piece.len()]`, while it is in the cache: bias, activation and
/// residual belong there. How a row is cut into pieces depends on M and on the number of threads.
///
/// # Panics
/// If a row distance is less than the row, or a matrix does not fit its slice.
pub fn product(y: &mut [f32], ldy: usize, x: &[f32], ldx: usize, m: usize, w: &Panels, epilogue: &Epilogue) {
    check_matrix("X", x.len(), ldx, m, w.k);
    check_matrix("Y", y.len(), ldy, m, w.n);
    if m == 0 || w.n == 0 {
        return;
    }
    let blocks = blocks(w);
    let (row_parts, column_parts) = partition(m, w, blocks[0].len());
    let panels = w.n.div_ceil(WIDTH);
    let mut tasks = Vec::with_capacity(row_parts * column_parts);
    let mut y_rows = y.chunks_mut(ldy.max(1));
    for part in 0..row_parts {
        let rows = part * m / row_parts..(part + 1) * m / row_parts;
        let first = tasks.len();
        tasks.extend((0..column_parts).map(|part| Task {
            row0: rows.start,
            panels: part * panels / column_parts..(part + 1) * panels / column_parts,
            y: Vec::with_capacity(rows.len()),
        }));
        for row in y_rows.by_ref().take(rows.len()) {
            let mut rest = &mut row[..w.n];
            for task in &mut tasks[first..] {
                let width = (task.panels.end * WIDTH).min(w.n) - task.panels.start * WIDTH;
                let (piece, behind) = rest.split_at_mut(width);
                task.y.push(piece);
                rest = behind;
            }
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
    /// The columns of `panels` of each row.
    y: Vec<&'y mut [f32]>,
}

thread_local! {
    /// The packed rows of X of a thread's task, at most [`MAX_ROWS_BYTES`] whatever M and K are. A task takes the lines
    /// and puts them back, so that an epilogue may itself call [`product`].
    static ROWS: Cell<Option<Pages<Line>>> = const { Cell::new(None) };
}

impl<'y> Task<'y> {
    /// Computes the task's part of Y.
    fn run(mut self, x: &[f32], ldx: usize, w: &Panels, blocks: &[Range<usize>], epilogue: &Epilogue) {
        let x: Vec<&[f32]> = (self.row0..).take(self.y.len()).map(|row| &x[row * ldx..][..w.k]).collect();
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
        let mut rows = ROWS.take().filter(|rows| rows.len() >= most).unwrap_or_else(|| Pages::zeroed(most.max(ROWS_LINES)));
        for (i, block) in blocks.iter().enumerate() {
            let packed = &mut rows[..lines(block.len())];
            split::pack_rows(packed, x, block.start * STEP, block.len(), tile_rows);
            for panel in self.panels.clone() {
                let (w, rest) = w[(panel * steps + block.start) * STEP_LINES..].split_at(block.len() * STEP_LINES);
                let next = (steps - block.len()) * STEP_LINES;
                let ahead = rest.get(next..next + w.len()).unwrap_or_default();
                amx.panel(tile_rows, packed, w, ahead, self.columns(panel, i == 0));
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
            for (i, block) in blocks.iter().enumerate() {
                let (start, end) = (block.start * STEP, k.min(block.end * STEP));
                let w = &w[panel * k..][start..end];
                let mut y = self.columns(panel, i == 0);
                for (chunk, x) in x.chunks(fma::ROWS).enumerate() {
                    // Where rows are missing the last one is computed again.
                    fma::block(std::array::from_fn(|i| &x[i.min(x.len() - 1)][start..]), w, &mut sums);
                    for (i, sums) in sums.iter().enumerate() {
                        y.put(chunk * fma::ROWS + i, sums);
                    }
                }
            }
            self.finish(panel, epilogue);
        }
    }

    /// The columns of a panel.
    fn columns(&mut self, panel: usize, first: bool) -> Columns<'_, 'y> {
        Columns { column: (panel - self.panels.start) * WIDTH, rows: &mut self.y, first }
    }

    /// After every eighth finished panel and the last: hands the columns since then to the epilogue, row by row.
    fn finish(&mut self, panel: usize, epilogue: &Epilogue) {
        let done = panel + 1 - self.panels.start;
        if !done.is_multiple_of(EPILOGUE_PANELS) && panel + 1 < self.panels.end {
            return;
        }
        let start = (done - 1) / EPILOGUE_PANELS * EPILOGUE_PANELS * WIDTH;
        let column0 = self.panels.start * WIDTH + start;
        for (row, y) in (self.row0..).zip(&mut self.y) {
            let end = y.len().min(done * WIDTH);
            epilogue(row, column0, &mut y[start..end]);
        }
    }
}

/// Where the products with a panel of W go: up to 32 columns of Y.
pub(super) struct Columns<'a, 'y> {
    rows: &'a mut [&'y mut [f32]],
    /// The first of the columns.
    column: usize,
    /// Whether they are the sums of the first block of K; those of the others are added.
    first: bool,
}

impl Columns<'_, '_> {
    /// Takes the sums of row `i`; past the last row and column they are left out.
    #[inline(always)]
    pub(super) fn put(&mut self, i: usize, sums: &[f32; WIDTH]) {
        let Some(row) = self.rows.get_mut(i) else { return };
        let y = &mut row[self.column..];
        match y.first_chunk_mut::<WIDTH>() {
            // The same as below with a constant length, for the compiler's sake.
            Some(y) if self.first => *y = *sums,
            Some(y) => y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum),
            None if self.first => y.iter_mut().zip(sums).for_each(|(y, sum)| *y = *sum),
            None => y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum),
        }
    }
}

/// Rows of a tile, such that `rows` of them fill an even number of tiles with as few rows to spare as can be: a tile
/// product takes a cycle per row.
fn tile_rows(rows: usize) -> usize {
    rows.div_ceil(2 * rows.div_ceil(2 * TILE_ROWS))
}
