//! Exact top-k of a row without sorting it.

use std::cmp::Ordering;

use crate::backend::cpu::Real;

/// Values that are compared at once.
const LANES: usize = 16;

/// Finds the largest positive values of rows. It holds what one row leaves for the next to reuse.
///
/// A row is cut into groups, more than `k` of them. The k-th largest of the groups' maxima is a lower bound of the k-th
/// largest value, so only groups whose maximum reaches it are looked into: about `k`. A group is a lane of a block of
/// [`LANES`] columns, so that the maxima are taken lane by lane.
#[derive(Default)]
pub(super) struct TopK<T> {
    maxima: Vec<T>,
    order: Vec<T>,
    found: Vec<(T, u32)>,
}

/// The larger value first, then the lower index.
fn before<T: Real>(a: &(T, u32), b: &(T, u32)) -> Ordering {
    descending(&a.0, &b.0).then(a.1.cmp(&b.1))
}

fn descending<T: Real>(a: &T, b: &T) -> Ordering {
    b.partial_cmp(a).unwrap_or(Ordering::Equal)
}

impl<T: Real> TopK<T> {
    /// The `k` largest of the positive values, ties to the lower index, with their indices, which ascend. NaN is never
    /// chosen.
    #[inline(always)]
    pub fn select(&mut self, values: &[T], k: usize) -> &[(T, u32)] {
        self.found.clear();
        if k == 0 {
            return &self.found;
        }
        let height = if values.len() >= 64 * k { 16 } else { 4 };
        let (whole, tail) = values.split_at(values.len() / (LANES * height) * (LANES * height));
        self.maxima.clear();
        for block in whole.chunks_exact(LANES * height) {
            let mut maxima = [T::ZERO; LANES];
            for row in block.as_chunks::<LANES>().0 {
                for (max, &value) in maxima.iter_mut().zip(row) {
                    *max = if value > *max { value } else { *max };
                }
            }
            self.maxima.extend_from_slice(&maxima);
        }
        let mut bound = T::ZERO;
        if self.maxima.len() > k {
            self.order.clone_from(&self.maxima);
            bound = *self.order.select_nth_unstable_by(k - 1, descending).1;
        }
        let reaches = |value: T| value >= bound && value > T::ZERO;
        for (group, _) in self.maxima.iter().enumerate().filter(|(_, max)| reaches(**max)) {
            let first = group / LANES * LANES * height + group % LANES;
            for i in (first..first + LANES * height).step_by(LANES) {
                if reaches(whole[i]) {
                    self.found.push((whole[i], i as u32));
                }
            }
        }
        for (i, &value) in tail.iter().enumerate() {
            if reaches(value) {
                self.found.push((value, (whole.len() + i) as u32));
            }
        }
        if self.found.len() > k {
            self.found.select_nth_unstable_by(k, before);
            self.found.truncate(k);
        }
        self.found.sort_unstable_by_key(|(_, i)| *i);
        &self.found
    }
}

/// Calls `found` with the index of every value over its bound, in order.
#[inline(always)]
pub(super) fn above<T: Real>(values: &[T], bound: impl Fn(usize) -> T, mut found: impl FnMut(usize, T)) {
    let (whole, tail) = values.as_chunks::<LANES>();
    for (chunk, values) in whole.iter().enumerate() {
        let first = chunk * LANES;
        if values.iter().enumerate().fold(false, |any, (j, &value)| any | (value > bound(first + j))) {
            for (j, &value) in values.iter().enumerate().filter(|(j, value)| **value > bound(first + j)) {
                found(first + j, value);
            }
        }
    }
    for (i, &value) in (whole.len() * LANES..).zip(tail).filter(|(i, value)| **value > bound(*i)) {
        found(i, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By sorting everything.
    fn slow(values: &[f32], k: usize) -> Vec<(f32, u32)> {
        let mut all: Vec<(f32, u32)> = values.iter().copied().zip(0..).filter(|(v, _)| *v > 0.0).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        all.truncate(k);
        all.sort_by_key(|(_, i)| *i);
        all
    }

    proptest! {
        #[test]
        fn it_is_what_sorting_gives(values in prop::collection::vec(-3i8..40, 1..1500), k in 0usize..40) {
            // Small integers: many ties.
            let values: Vec<f32> = values.into_iter().map(f32::from).collect();
            prop_assert_eq!(TopK::default().select(&values, k).to_vec(), slow(&values, k));
            let mut over = Vec::new();
            above(&values, |i| (i % 3) as f32, |i, v| over.push((v, i as u32)));
            let want: Vec<_> =
                values.iter().copied().zip(0u32..).filter(|(v, i)| *v > (i % 3) as f32).collect();
            prop_assert_eq!(over, want);
        }
    }

    #[test]
    fn nan_is_never_chosen() {
        let mut values = vec![f32::NAN; 600];
        values[300] = 1.0;
        assert_eq!(TopK::default().select(&values, 3), [(1.0, 300)]);
    }
}
