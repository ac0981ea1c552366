//! Sums over rows, in an order that depends on the length alone, and Adam.

use rayon::prelude::*;

use crate::backend::cpu::Real;

/// Partial sums of a dot product: four vectors of AVX-512.
const LANES: usize = 64;
/// Rows whose sums are taken by one task.
const ROWS: usize = 64;

/// Runs `f` compiled for the widest vectors of this machine.
#[inline(always)]
pub(super) fn simd<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// `<a, b>`.
#[inline(always)]
pub(super) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut sums = [T::ZERO; LANES];
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    for ((sum, &a), &b) in sums.iter_mut().zip(a_tail).zip(b_tail) {
        *sum += a * b;
    }
    let mut lanes = LANES / 2;
    while lanes > 0 {
        for j in 0..lanes {
            sums[j] += sums[j + lanes];
        }
        lanes /= 2;
    }
    sums[0]
}

/// `y += sum over i of a_i row(i)`, one after the other; four at a time pass through the registers together.
#[inline(always)]
pub(super) fn add_rows<'r, T: Real>(y: &mut [T], count: usize, row: impl Fn(usize) -> (T, &'r [T])) {
    let mut i = 0;
    while i + 4 <= count {
        let [(a0, r0), (a1, r1), (a2, r2), (a3, r3)] = [row(i), row(i + 1), row(i + 2), row(i + 3)];
        for ((((y, &r0), &r1), &r2), &r3) in y.iter_mut().zip(r0).zip(r1).zip(r2).zip(r3) {
            *y = *y + a0 * r0 + a1 * r1 + a2 * r2 + a3 * r3;
        }
        i += 4;
    }
    for i in i..count {
        let (a, row) = row(i);
        y.iter_mut().zip(row).for_each(|(y, &r)| *y += a * r);
    }
}

/// Sums over the rows of a matrix.
pub(super) struct Moments {
    rows: usize,
    /// Sum of all squares.
    pub squares: f64,
    /// (D): sum of the rows.
    pub columns: Vec<f64>,
}

impl Moments {
    /// Of `rows` (n,D).
    pub fn of<T: Real>(rows: &[T], d: usize) -> Self {
        let parts: Vec<(f64, Vec<T>)> = rows
            .par_chunks(ROWS * d)
            .map(|rows| {
                simd(
                    #[inline(always)]
                    || {
                        let (mut squares, mut columns) = (0.0, vec![T::ZERO; d]);
                        for row in rows.chunks_exact(d) {
                            squares += dot(row, row).to_f64();
                            columns.iter_mut().zip(row).for_each(|(sum, &v)| *sum += v);
                        }
                        (squares, columns)
                    },
                )
            })
            .collect();
        let mut all = Moments { rows: rows.len() / d, squares: 0.0, columns: vec![0.0; d] };
        for (squares, columns) in parts {
            all.squares += squares;
            all.columns.iter_mut().zip(columns).for_each(|(sum, v)| *sum += v.to_f64());
        }
        all
    }

    /// `sum |row - mean row|^2`.
    pub fn spread(&self) -> f64 {
        self.squares - self.columns.iter().map(|sum| sum * sum).sum::<f64>() / self.rows as f64
    }
}

/// One step of Adam (Kingma and Ba 2015, arXiv 1412.6980), with PyTorch's place of epsilon.
#[derive(Clone, Copy)]
pub(super) struct Adam<T> {
    /// 1 - beta.
    rest: [T; 2],
    /// The learning rate over the first bias correction.
    rate: T,
    /// One over the root of the second bias correction.
    second: T,
    epsilon: T,
    /// Smaller first moments become 0: rows without gradient would end in denormal numbers, which are slow.
    least: T,
}

impl<T: Real> Adam<T> {
    /// The `step`-th step, from 0.
    pub fn new(learning_rate: f64, step: usize) -> Self {
        let correction = |beta: f64| 1.0 - beta.powf((step + 1) as f64);
        Adam {
            rest: [0.1, 0.001].map(T::of),
            rate: T::of(learning_rate / correction(0.9)),
            second: T::of(1.0 / correction(0.999).sqrt()),
            epsilon: T::of(1e-8),
            least: T::of(f64::from(f32::MIN_POSITIVE)),
        }
    }

    /// Moves `w` by its gradient; `m` and `v` are its moments.
    #[inline(always)]
    pub fn update(&self, w: &mut [T], [m, v]: [&mut [T]; 2], gradient: &[T]) {
        for (((w, m), v), &g) in w.iter_mut().zip(m).zip(v).zip(gradient) {
            let first = *m + self.rest[0] * (g - *m);
            *m = if first.abs() < self.least { T::ZERO } else { first };
            *v += self.rest[1] * (g * g - *v);
            *w -= self.rate * *m / (v.sqrt() * self.second + self.epsilon);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact_for_small_integers_of_any_length() {
        for n in [1, 5, 63, 64, 65, 200] {
            let a: Vec<f32> = (0..n).map(|i| (i % 7) as f32).collect();
            let b: Vec<f32> = (0..n).map(|i| (i % 5) as f32 - 2.0).collect();
            let want: f32 = (0..n).map(|i| (i % 7) as f32 * ((i % 5) as f32 - 2.0)).sum();
            assert_eq!(dot(&a, &b), want);
            let mut y = vec![1.0; n];
            add_rows(&mut y, 6, |i| (i as f32, &a));
            assert!(y.iter().zip(&a).all(|(y, a)| *y == 1.0 + 15.0 * a));
        }
        let moments = Moments::of(&[1.0f32, 2.0, 3.0, 4.0], 2);
        assert_eq!((moments.squares, &moments.columns[..], moments.spread()), (30.0, &[4.0, 6.0][..], 4.0));
    }

    /// By the paper's formulas, which PyTorch's are rearranged from.
    #[test]
    fn adam_is_adam() {
        let (mut w, mut m, mut v) = (1.0, 0.0, 0.0);
        let (mut ours, mut first, mut second) = ([1.0f64], [0.0], [0.0]);
        for step in 0..20 {
            let g = (step as f64).sin();
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            let t = step + 1;
            w -= 0.01 * (m / (1.0 - 0.9f64.powi(t))) / ((v / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-8);
            Adam::new(0.01, step as usize).update(&mut ours, [&mut first, &mut second], &[g]);
        }
        assert!((ours[0] - w).abs() < 1e-14, "{} {w}", ours[0]);
    }
}
