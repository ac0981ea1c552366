//! How a product is cut into tasks for the threads, and into blocks and panels for the caches.

use super::amx::{Line, STEP, STEP_LINES, TILE_ROWS, WIDTH, put};
use super::fma::{self, PanelRow};
use super::{Packed, Panels, split};
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;

/// Steps of 32 in a block of K for the tile unit: a panel of W over a block (6 kB a step) and the rows of X that it
/// meets share the L2 cache.
const MAX_TILE_STEPS: usize = 32;
/// The same for multiply-adds: a panel of W (4 kB a step) in the L1 cache, and chains short enough to round little.
const MAX_FMA_STEPS: usize = 8;
/// Bytes of the packed rows of X of a task: what else of 2 MB of L2 is not needed for two panels of W.
const MAX_ROWS_BYTES: usize = 1_200_000;
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
    /// The packed rows of X of a thread's task, at most [`MAX_ROWS_BYTES`] whatever M and K are. A task takes the vector
    /// and puts it back, so that an epilogue may itself call [`product`].
    static ROWS: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

impl Task<'_> {
    /// Computes the task's part of Y.
    fn run(mut self, x: &[f32], ldx: usize, w: &Panels, blocks: &[Range<usize>], epilogue: &Epilogue) {
        let x: Vec<&[f32]> = (self.row0..).take(self.y.len()).map(|row| &x[row * ldx..][..w.k]).collect();
        let mut packed = ROWS.take();
        for (i, block) in blocks.iter().enumerate() {
            let k = block.start * STEP..(block.end * STEP).min(w.k);
            let tile_rows = tile_rows(x.len());
            if let Packed::Amx(..) = w.packed {
                split::pack_rows(&mut packed, &x, block.start * STEP, block.len(), tile_rows);
            }
            for panel in self.panels.clone() {
                let columns = (panel - self.panels.start) * WIDTH;
                match &w.packed {
                    Packed::Amx(amx, lines) => {
                        let line0 = (panel * w.k.div_ceil(STEP) + block.start) * STEP_LINES;
                        let (lines, rest) = lines[line0..].split_at(block.len() * STEP_LINES);
                        let behind = (w.k.div_ceil(STEP) - block.len()) * STEP_LINES;
                        let ahead = rest.get(behind..behind + lines.len()).unwrap_or_default();
                        amx.panel(tile_rows, &packed, lines, ahead, &mut self.y, columns, i == 0);
                    }
                    Packed::Fma(rows) => self.fma_panel(&rows[panel * w.k..][k.clone()], &x, k.start, columns, i == 0),
                }
                let done = panel + 1 - self.panels.start;
                if i + 1 == blocks.len() && (done % EPILOGUE_PANELS == 0 || panel + 1 == self.panels.end) {
                    self.finish((done - 1) / EPILOGUE_PANELS * EPILOGUE_PANELS * WIDTH, done * WIDTH, epilogue);
                }
            }
        }
        ROWS.set(packed);
    }

    /// The product with one panel of W by multiply-adds, as `Amx::panel`; `k0` is where the block of K begins.
    fn fma_panel(&mut self, w: &[PanelRow], x: &[&[f32]], k0: usize, column: usize, first: bool) {
        let mut sums = [[0.0; WIDTH]; fma::ROWS];
        for (y, x) in self.y.chunks_mut(fma::ROWS).zip(x.chunks(fma::ROWS)) {
            // Where rows are missing the last one is computed again.
            fma::block(std::array::from_fn(|i| &x[i.min(x.len() - 1)][k0..]), w, &mut sums);
            for (y, sums) in y.iter_mut().zip(&sums) {
                put(&mut y[column..], sums, first);
            }
        }
    }

    /// Hands the finished columns of every row to the epilogue.
    fn finish(&mut self, start: usize, end: usize, epilogue: &Epilogue) {
        let column0 = self.panels.start * WIDTH + start;
        for (i, y) in self.y.iter_mut().enumerate() {
            let end = end.min(y.len());
            epilogue(self.row0 + i, column0, &mut y[start..end]);
        }
    }
}

/// Rows of a tile, such that `rows` of them fill an even number of tiles with as few rows to spare as can be: a tile
/// product takes a cycle per row.
fn tile_rows(rows: usize) -> usize {
    rows.div_ceil(2 * rows.div_ceil(2 * TILE_ROWS))
}
